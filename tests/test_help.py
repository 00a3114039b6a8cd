"""What every command says of itself, how much commands say, and what a shell completes: for all of them alike."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli
from cli import main
from preprocess.console import VERBOSITY, notes, saying, verbosity
from preprocess.ordered_actions import render

# Options without a default, for without them nothing of their kind is done.
NOTHING_UNLESS_GIVEN = {"--resume", "--reverse", "--shuffle", "--init", "--with-model", "--videos", "--classes"}
NOTHING_UNLESS_GIVEN |= {"--submission", "--against", "--video"}


def commands(group=main, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())


@pytest.fixture(params=ALL, ids=" ".join)
def of_each(request):
    """A command's words, itself, and what it says."""
    result = CliRunner().invoke(main, [*request.param, "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return request.param, ALL[request.param], result.output


def test_every_command_begins_with_a_sentence_and_has_an_example(of_each):
    words, command, said = of_each
    first = re.split(r"\.(?:\s|$)", command.help or "", maxsplit=1)[0]
    assert first[:1].isupper() and "\n" not in first.strip(), first
    assert len(first) <= 110, first
    assert f"  Example: v4d {' '.join(words)}" in said


def test_every_option_says_what_it_is_and_its_default(of_each):
    _, command, said = of_each
    for option in command.params:
        if not isinstance(option, click.Option) or option.name == "help":
            continue
        assert option.help, option.name
        if option.required or option.is_flag or option.multiple:
            continue
        record = option.get_help_record(click.Context(command, show_default=True))
        assert "[default: " in record[1] or set(option.opts) & NOTHING_UNLESS_GIVEN, option.name
    assert "None" not in said


def test_the_help_lists_every_command_in_a_section():
    said = CliRunner().invoke(main, ["--help"]).output
    for name in main.commands:
        (_,) = [names for names in main.sections.values() if name in names]
        assert re.search(rf"^  {name} +[A-Z]", said, re.M), name
    assert "More:" not in said


def test_the_help_waits_for_nothing():
    """Neither torch nor DALI, nor what draws and measures."""
    slow = "torch", "nvidia", "ray", "tensorboard", "av", "pydantic", "PIL", "sphinx"
    code = f"import sys, cli\nprint([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_versions_are_those_that_run():
    import nvidia.dali
    import torch

    from preprocess.ffmpeg import version

    said = CliRunner().invoke(main, ["--version"]).output
    expected = f"torch {torch.__version__}, DALI {nvidia.dali.__version__}, ffmpeg {version()}"
    assert re.fullmatch(rf"v4d [\d.]+ \({re.escape(expected)}\)\n", said)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_to_complete(shell):
    said = CliRunner().invoke(main, [], prog_name="v4d", env={"_V4D_COMPLETE": f"{shell}_source"}).output
    assert "_V4D_COMPLETE=" in said and "v4d" in said


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("v4d tra", ["train"]),
        ("v4d preprocess mini", ["mini-kinetics"]),
        ("v4d train --max", ["--max-bad", "--max-restarts"]),
        ("v4d preprocess folder --codec v", ["vp9"]),
    ],
)
def test_what_a_shell_completes(typed, completed):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_V4D_COMPLETE": "bash_complete"}
    said = CliRunner().invoke(main, [], prog_name="v4d", env=words).output
    assert sorted(line.partition(",")[2] for line in said.splitlines()) == completed


@pytest.fixture
def work(tmp_path, monkeypatch):
    render(tmp_path / "data" / "acts" / "videos", {"train": 1, "val": 1}, seed=3, workers=2, on_video=lambda: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, **environment):
    """A command in a process of its own: its exit code, standard output, and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent), **environment},
    )
    assert "Traceback" not in done.stderr or "--debug" in words, done.stderr
    return done.returncode, done.stdout, done.stderr


FOLDER = "preprocess", "folder", "--resize", "32x32", "--workers", "2"


def test_how_much_is_said(work):
    said = {how: run(how, *FOLDER, "--out", f"shards/{how[2:]}") for how in ("--quiet", "--verbose", "--debug")}
    said["normal"] = run(*FOLDER, "--out", "shards/normal")
    assert all(code == 0 for code, _, _ in said.values()), said
    for how, (_, out, _) in said.items():
        assert out.splitlines()[-1].startswith(f"shards/{how.strip('-')}: 6 train, 6 val videos, "), out
    assert "videos data/acts/videos, dataset" in said["normal"][1]
    assert "videos data/acts/videos, dataset" not in said["--quiet"][1]
    assert said["normal"][2] == said["--quiet"][2] == ""
    assert "data/acts/videos: the only folder of videos at data/NAME/videos" in said["--verbose"][2]
    assert "imageio-ffmpeg" in said["--verbose"][2]
    # A line for each ffmpeg, of the workers' processes too.
    assert " -i file:/dev/stdin " not in said["--verbose"][2]
    assert said["--debug"][2].count(" -i file:/dev/stdin ") == 12
    for how in ("--quiet", "--verbose"):
        in_json = CliRunner().invoke(main, [how, "info", "shards/normal", "--json"])
        assert json.loads(in_json.stdout), how


def test_a_quiet_training_says_its_result_alone(work):
    CliRunner().invoke(main, FOLDER)
    tiny = ("model.base_width=4", "data.train_crop=32", "data.test_crop=32", "data.frames=2", "optim.epochs=1")
    settings = [word for setting in tiny for word in ("--set", setting)]
    result = CliRunner().invoke(main, ["--quiet", "train", "--gpus", "0", *settings])
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert re.fullmatch(r"trained runs/acts-v4d_small in \d+ s\n", result.stdout)
    result = CliRunner().invoke(main, ["--quiet", "eval", "--gpus", "0", "--u-infer", "4"])
    assert result.exit_code == 0 and result.stderr == ""
    assert "top-1" in result.stdout and "scores: runs" in result.stdout and "evaluat" not in result.stdout
    result = CliRunner().invoke(main, ["--quiet", "train", "--gpus", "0", "--data", "nowhere"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("v4d: nowhere holds no dataset.json")


def test_the_environment_may_say_how_much(tmp_path):
    arguments = ["runs", "--folder", str(tmp_path / "none")]
    assert CliRunner().invoke(main, arguments, env={VERBOSITY: "quiet"}).output == ""
    assert "there is no run" in CliRunner().invoke(main, arguments, env={VERBOSITY: "loud"}).output


def notes_are_quiet(_):
    return notes.quiet, verbosity()


def test_processes_that_are_started_say_as_much():
    with saying("quiet"), ProcessPoolExecutor(1, get_context("spawn")) as started:
        assert list(started.map(notes_are_quiet, [None])) == [(True, "quiet")]
    assert notes_are_quiet(None) == (False, "normal")


def test_quiet_and_verbose_do_not_go_together():
    result = CliRunner().invoke(main, ["--quiet", "--verbose", "recipes"])
    assert result.exit_code == 2 and "--quiet goes with neither" in result.output


def test_one_command_does_not_change_how_much_the_next_says(tmp_path):
    """As in a program that calls several."""
    nothing = tmp_path / "none"
    arguments = ["runs", "--folder", str(nothing)]
    assert CliRunner().invoke(main, ["--quiet", *arguments]).output == ""
    assert "there is no run" in CliRunner().invoke(main, arguments).output


def test_colours_are_for_terminals_only():
    code = "from preprocess.console import console, notes\nfor of in console, notes: of.print('said', style='red')"
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(Path(cli.__file__).parent)}

    def said(**more):
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment | more, check=True
        ).stdout

    assert said() == "said\nsaid\n"
    # This takes what is printed to for a terminal.
    assert said(FORCE_COLOR="1").count("\x1b[31m") == 2
    assert said(FORCE_COLOR="1", NO_COLOR="1") == "said\nsaid\n"
