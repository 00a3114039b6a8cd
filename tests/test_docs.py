"""README and docs: links lead somewhere, commands are commands, code runs, the table and the picture are as made."""

import json
import re
import shlex
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

import click
import pytest
import tomlkit
from click.testing import CliRunner
from markdown_it import MarkdownIt

from benchmarks.speed_table import README, as_table, main, read_figures, with_table
from cli import main as v4d
from docs.picture import FOLDER, THEMES, picture
from preprocess.index import VERSION
from preprocess.ordered_actions import render
from tests.test_help import ALL

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# So small that a test can train it.
TINY = ("model.base_width=4", "data.train_crop=32", "data.test_crop=32", "data.frames=2", "optim.epochs=1")
RUN = "<!-- run -->"


def of_page(page):
    return str(page.relative_to(ROOT))


def tokens(page):
    return MarkdownIt().enable("table").parse(page.read_text())


def inline(page):
    """Everything in running text and tables."""
    return (child for token in tokens(page) for child in token.children or ())


def anchors(page):
    """Those of a page's headings, as a code host and the site make them."""
    found = tokens(page)
    for opening, heading in pairwise(found):
        if opening.type == "heading_open":
            said = "".join(child.content for child in heading.children)
            yield re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_link_leads_somewhere(page):
    links = [child.attrs["href"] for child in inline(page) if child.type == "link_open"]
    links += re.findall(r'(?:src|srcset)="([^"]+)"', page.read_text())
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in set(anchors(target)), link


def lines_of_code(page):
    """Lines of code blocks, with those that go on joined; and the code in running text and tables."""
    for token in tokens(page):
        if token.type == "code_block" or (token.type == "fence" and token.info in ("", "sh", "bash")):
            yield from re.sub(r"\\\n\s*", "", token.content).splitlines()
    yield from (child.content.replace("\n", " ") for child in inline(page) if child.type == "code_inline")


def commands_of(page):
    """The words of every ``v4d ...``, wherever in a line it begins, up to a comment or another command."""
    for line in lines_of_code(page):
        found = re.search(r"(?:^|--no-python |&& |srun )v4d (.+)", line)
        if not found or "COMMAND" in line or "..." in line:
            continue
        words = shlex.split(re.sub(r"\[([^\]=]*)\]$", "", found[1]), comments=True)
        for stop in ("|", ">", "&&"):
            words = words[: words.index(stop)] if stop in words else words
        yield words


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_command_is_one(page, monkeypatch):
    """Its options are there, and take what they are given. It is parsed as by a shell, and not carried out."""
    for command in ALL.values():
        monkeypatch.setattr(command, "callback", lambda **_: None)
    for words in commands_of(page):
        # A name alone, as in "`v4d eval` counts": what it needs is left out.
        is_a_name = tuple(words) in ALL or all(word.startswith("--") for word in words)
        asked = [*words, "--help"] if is_a_name else words
        result = CliRunner().invoke(v4d, asked)
        assert result.exit_code == 0, (words, result.output)


def test_every_option_that_is_spoken_of_is_there():
    options = [option for command in (v4d, *ALL.values()) for option in command.params]
    known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    known |= {"--help", "--signals-to-handle", "--signal"}  # click's own, torchrun's and Slurm's
    for page in PAGES:
        for child in inline(page):
            spoken_of = re.match(r"--[a-z-]+", child.content) if child.type == "code_inline" else None
            assert not spoken_of or spoken_of[0] in known, (page.name, child.content)


def test_enough_commands_are_found():
    found = [tuple(words) for page in PAGES for words in commands_of(page)]
    assert len(found) > 80
    # With a line that goes on, an inline one, one behind torchrun, one in a table.
    torchrun = ("train", "--recipe", "v4d_resnet18", "--gpus", "8", "--out", "runs/big")
    assert torchrun in found and ("train", "--resize", "x") not in found
    assert ("preprocess", "folder", "--dry-run") in found and ("verify", "DATA") in found


def make_targets(page):
    return [target for line in lines_of_code(page) for target in re.findall(r"(?:^|\s)make ([a-z-]+)", line)]


def test_every_target_of_make_is_there():
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {target for page in PAGES for target in make_targets(page)}
    assert {"demo", "test", "docs", "speed-table"} <= named <= set(known)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("work")
    render(root / "data" / "acts" / "videos", {"train": 2, "val": 1}, seed=3, workers=2, on_video=lambda: None)
    return root


@pytest.fixture
def work(rendered, monkeypatch):
    """A work folder with data/acts/videos."""
    monkeypatch.chdir(rendered)
    return rendered


def test_the_commands_of_the_readme_run(work):
    """All that stand in its code blocks, in their order, word for word; what trains is made small."""
    blocks = [token.content for token in tokens(ROOT / "README.md") if token.type == "code_block"]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["v4d"]]
    assert commands[:3] == [["preprocess", "folder"], ["train"], ["eval", "--u-infer", "10"]]
    assert len(commands) == 8
    for words in commands:
        small = [part for setting in TINY for part in ("--set", setting)] if words == ["train"] else []
        small += ["--seconds", "0.5"] if words == ["doctor"] else []
        result = CliRunner().invoke(v4d, [*words, *small])
        assert result.exit_code == 0, (words, result.output)
    assert (work / "shards/acts/dataset.json").exists()
    (run,) = (work / "runs").iterdir()
    assert json.loads((run / "eval-val-u10/accuracy.json").read_text())["videos"] == 6


def python_blocks(page):
    """Of each block its code, and whether it is to be run."""
    found = tokens(page)
    for before, token in zip([None, *found], found, strict=False):
        if token.type == "fence" and token.info == "python":
            yield token.content, before is not None and before.type == "html_block" and RUN in before.content


WITH_PYTHON = [page for page in PAGES if list(python_blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=of_page)
def test_python_in_the_docs_compiles_and_runs(page, work):
    """Blocks that are marked run in their order, as one program, in a work folder with shards/acts."""
    if not (work / "shards" / "acts").exists():
        assert CliRunner().invoke(v4d, ["preprocess", "folder"]).exit_code == 0
    names = {"__name__": "__main__"}
    for code, is_run in python_blocks(page):
        program = compile(code, str(page), "exec")
        if is_run:
            exec(program, names)


def test_marked_blocks_are_found():
    marked = sum(page.read_text().count(RUN) for page in PAGES)
    assert marked == sum(is_run for page in PAGES for _, is_run in python_blocks(page)) >= 4


def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", ROOT / "docs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.glob("*.html"):
        # It is read where there is no network.
        loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, page.name
    assert {page.stem for page in PAGES if page.parent.name == "docs"} <= {page.stem for page in tmp_path.glob("*")}


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


def test_the_table_of_speeds_is_as_made():
    text = README.read_text()
    assert with_table(text, as_table(read_figures())) == text


def test_every_speed_is_one_that_was_measured():
    """The page of measurements has it, and tells what was run."""
    measured = (ROOT / "docs" / "measurements.md").read_text()
    for figure in read_figures():
        as_noted = {f"{figure.value:g}", f"{figure.value:,.0f}", f"{figure.value:.1f}"}
        assert any(re.search(rf"(?<![\d.,]){re.escape(one)}(?![\d]|[.,]\d)", measured) for one in as_noted), figure


def test_what_a_benchmark_prints_goes_into_the_table(tmp_path):
    figures, readme, printed = tmp_path / "speeds.jsonl", tmp_path / "README.md", tmp_path / "bench.json"
    figures.write_text((ROOT / "benchmarks" / "speeds.jsonl").read_text())
    readme.write_text(README.read_text())
    routes = [
        {"route": "v4d, JPEG packets", "ours": True, "videos_per_s": 611.52, "problem": ""},
        {"route": "decord | originals", "ours": False, "videos_per_s": 40.0, "problem": ""},
        {"route": "torchcodec", "ours": False, "videos_per_s": None, "problem": "does not load"},
    ]
    printed.write_text(json.dumps({"units": 4, "frames": 4, "routes": routes}))
    options = ["--figures", str(figures), "--readme", str(readme), "--bench", str(printed)]
    main([*options, "--machine", "2 CPU cores"])
    rows = [line for line in readme.read_text().splitlines() if "611.5" in line]
    assert len(rows) == 1 and "| 40 videos/s | 15 | 2 CPU cores, " in rows[0] and r"decord \| originals" in rows[0]
    # It stands in place of what there was of that machine, and of nothing else.
    assert "326.6" not in readme.read_text() and "2,736" in readme.read_text()
    with pytest.raises(SystemExit):
        main(options)


@pytest.mark.parametrize("theme", THEMES)
def test_the_picture_is_as_drawn(theme):
    drawn = picture(theme)
    assert (FOLDER / f"v4d-{theme}.svg").read_text() == drawn
    # The frames that a test takes of 300, and no colour without a value.
    assert drawn.count('height="26"') == 16 and "@" not in drawn


def test_every_dependency_has_a_version_and_a_reason():
    """A range and a reason in pyproject.toml, the tested version in constraints.txt."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomlkit.parse(text).unwrap()["project"]
    needed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert len(needed) > 30
    for requirement in needed:
        name = re.match(r"[\w-]+", requirement)[0].lower()
        if name == "v4d":
            continue
        (line,) = [line for line in text.splitlines() if f'"{requirement}"' in line]
        assert re.search(r'"[\],]+ +# \S+', line), line
        assert f"{name}>=" in requirement.lower() and name in pinned, name


def test_what_is_cited_is_this_version():
    cited = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", cited, re.M)[1] == VERSION
    assert re.findall("family-names: (.*)", cited) == ["Zhang", "Guo", "Huang", "Scott", "Wang"]


def test_groups_of_the_command_line_are_known():
    """ALL is what the pages are checked against."""
    assert isinstance(ALL["preprocess",], click.Group) and ("index", "rebuild") in ALL
