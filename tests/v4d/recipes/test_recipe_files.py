"""Recipes as files: those of the paper's rows, those based on others, and a recipe shown whole."""

import json
import math
from types import SimpleNamespace

import pytest
import tomllib
import torch
from click.testing import CliRunner

from cli import main
from preprocess.errors import UsageError
from tests.v4d.synthetic import noise
from v4d.recipes.as_toml import as_toml
from v4d.recipes.files import load_recipe, packaged_recipes, read_recipe
from v4d.runs import choose_recipe
from v4d.step import Learner, build

NAMES = list(packaged_recipes())
# Of a size for two cores, in numbers that a CPU is exact in.
SHRUNKEN = ("model.base_width=4", "data.train_crop=32", "data.frames=2", "train.compile=false", "train.precision=fp32")


def v4d(*arguments, code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_recipe_learns(name):
    recipe = load_recipe(name, (*SHRUNKEN, "train.global_batch=3"))
    model, optimizer = build(recipe, 5, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = Learner(recipe, model, optimizer)
    assert math.isfinite(learner.step(noise(recipe, 3), 0, 3).loss)
    assert learner.gradient_norm() > 0
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_shown_is_the_recipe(name, tmp_path):
    settings = ("optim.lr=0.125", "model.dropout=0.25", 'train.init=a "file"\\', "optim.frozen=['layers.stem.*']")
    for given in ((), settings):
        path = tmp_path / f"{name}.toml"
        path.write_text(v4d("recipes", "show", name, *(part for one in given for part in ("--set", one))))
        assert load_recipe(str(path)) == load_recipe(name, given)
        # Whole: nothing is left to defaults or to another file.
        said, whole = tomllib.loads(path.read_text()), load_recipe(name).model_dump()
        assert "base" not in said
        assert all(said[section].keys() == whole[section].keys() for section in ("fits", "data", "model", "optim"))
        assert max(map(len, path.read_text().splitlines())) <= 120


def test_what_is_shown_says_what_and_why():
    said = v4d("recipes", "show", "something_v1_v4d_r50")
    assert said.startswith("# recipe something_v1_v4d_r50, based on k400_v4d_r50 <- k400_v4d_r50_held <- ")
    assert "# Shorten the stride where sections are shorter than a unit.\n# The paper does not say the stride." in said
    assert "# The paper does not say; Wang et al." in said
    # A comment is on the value it was written for.
    assert "The paper does not say; Wang" not in v4d("recipes", "show", "mini_v4d_r18", "--set", "train.global_batch=8")
    assert "did you mean 'mini_v4d_r18'" in v4d("recipes", "show", "mini_v4d_r8", code=2)


def test_recipes_are_listed():
    listed = v4d("recipes")
    assert all(name in listed for name in NAMES)
    found = {one["name"]: one for one in json.loads(v4d("recipes", "--json"))}
    assert list(found) == NAMES
    networks = {
        "mini_i3d_s_r18_4x1": "I3D-S ResNet-18 4x1",
        "mini_i3d_s_r18_plus_plus": "I3D-S ResNet-18 16x1",
        "mini_tsn_r18": "TSN ResNet-18 4x4",
        "k400_v4d_r50": "V4D ResNet-50 8x4",
    }
    assert {name: found[name]["network"] for name in networks} == networks
    assert found["activitynet_v4d_r50"]["kinds"] == ["activitynet"]


PAPERS = [name for name in NAMES if name not in ("demo", "v4d_small", "v4d_resnet18")]


def test_the_papers_rows_differ_as_its_tables_say():
    known = packaged_recipes()
    assert len(PAPERS) == 16
    for name in PAPERS:
        optim = known[name].optim
        assert (optim.lr, optim.momentum, optim.weight_decay) == (0.01, 0.9, 1e-5)
        assert (optim.epochs, optim.schedule, optim.milestones) == (100, "step", (35, 60, 80))
        assert (known[name].model.dropout, known[name].data.train_crop) == (0.5, 224)
        start = known[name].train
        assert (start.init == "imagenet") != (start.starts_from in known)
    base = known["mini_v4d_r18"]
    for name, changed in {
        "mini_tsn_r18": {"model": {"blocks_4d": ()}},
        "mini_v4d_r18_k3111": {"model": {"blocks_4d": ("res4.1",), "kernel_4d": (3, 1, 1, 1)}},
        "mini_v4d_r18_k3333": {"model": {"blocks_4d": ("res4.1",), "kernel_4d": (3, 3, 3, 3)}},
        "mini_v4d_r18_res3": {"model": {"blocks_4d": ("res3.1",)}},
        "mini_v4d_r18_res4": {"model": {"blocks_4d": ("res4.1",)}},
        "mini_v4d_r18_res5": {"model": {"blocks_4d": ("res5.1",)}},
        "mini_i3d_s_r18_16x1": {"model": {"blocks_4d": ()}, "data": {"units": 1, "frames": 16}},
    }.items():
        ours = {section: values for section, values in known[name].model_dump().items() if section not in OWN}
        theirs = {section: values for section, values in base.model_dump().items() if section not in OWN}
        for section, values in changed.items():
            theirs[section] = {**theirs[section], **values}
        assert ours == theirs


OWN = ("name", "about")


def test_kinetics_is_trained_in_three_stages():
    known = packaged_recipes()
    first, second, third = (known[f"k400_{name}"] for name in ("i3d_s_r50", "v4d_r50_held", "v4d_r50"))
    assert (first.data.units, first.data.frames, first.train.init) == (1, 8, "imagenet")
    assert (second.train.starts_from, third.train.starts_from) == (first.name, second.name)
    assert second.optim.frozen and not third.optim.frozen
    assert second.model == third.model
    assert (third.data.units, third.data.frames, known["mini_v4d_r50"].data.frames) == (4, 8, 4)
    assert known["something_v1_v4d_r50"].train.starts_from == third.name


def test_where_a_recipe_starts_from_has_to_be_named():
    held = load_recipe("k400_v4d_r50_held")
    with pytest.raises(UsageError, match=r"starts from the weights of a run of k400_i3d_s_r50: .* --init"):
        held.check_start()
    load_recipe("k400_v4d_r50_held", ("train.init=runs/stage1",)).check_start()
    load_recipe("k400_v4d_r50_held", ("train.starts_from=",)).check_start()
    load_recipe("demo").check_start()


@pytest.mark.parametrize(
    ("kind", "device", "expected"),
    [
        ("mini-kinetics", "cuda", "v4d_resnet18"),
        ("kinetics", "cuda", "v4d_resnet18"),
        ("activitynet", "cpu", "v4d_small"),
        ("ordered-actions", "cpu", "demo"),
    ],
)
def test_recipes_of_the_paper_are_chosen_by_name_alone(kind, device, expected):
    assert choose_recipe(SimpleNamespace(kind=kind, root="data"), device) == expected


def write(path, **content):
    """A TOML file; ``base`` first, then sections."""
    base = content.pop("base", "")
    lines = [f'base = "{base}"'] if base else []
    for section, values in content.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_file_changes_a_packaged_recipe_or_one_beside_it(tmp_path):
    write(tmp_path / "one.toml", base="demo", optim={"lr": 0.5, "epochs": 3})
    two = load_recipe(write(tmp_path / "two.toml", base="one.toml", optim={"epochs": 4}), ("model.dropout=0.125",))
    demo = load_recipe("demo")
    assert (two.name, two.about, two.data, two.train) == ("two", "", demo.data, demo.train)
    assert two.optim == demo.optim.model_copy(update={"lr": 0.5, "epochs": 4})
    assert two.model == demo.model.model_copy(update={"dropout": 0.125})
    assert read_recipe(str(tmp_path / "two.toml")).bases == ("one", "demo")


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("b.toml", "is based on itself: a <- b <- a"),
        ("a.toml", "recipe a is based on itself: a <- a"),
        ("mini_v4d_r19", "recipe a: there is no recipe 'mini_v4d_r19' to be based on (did you mean 'mini_v4d_r18'?)"),
        ("nowhere.toml", "there is no recipe 'nowhere.toml' to be based on"),
        ("broken.toml", "broken.toml is no TOML"),
        ("twice.toml", 'twice.toml is no TOML: Key "lr" already exists'),
    ],
)
def test_a_base_that_cannot_be(base, says, tmp_path):
    write(tmp_path / "b.toml", base="a.toml")
    (tmp_path / "broken.toml").write_text("[data\n")
    (tmp_path / "twice.toml").write_text("[optim]\nlr = 1.0\nlr = 2.0\n")
    with pytest.raises(UsageError) as error:
        load_recipe(write(tmp_path / "a.toml", base=base))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_is_a_name(tmp_path):
    (tmp_path / "a.toml").write_text("base = 3\n")
    with pytest.raises(UsageError, match="recipe a: base: name a recipe, not 3"):
        load_recipe(str(tmp_path / "a.toml"))


def test_a_comment_of_a_base_goes_with_its_value(tmp_path):
    (tmp_path / "a.toml").write_text("[optim]\n# for a\nlr = 0.5\n\n# of nothing\n\nmomentum = 0.5\n")
    path = write(tmp_path / "b.toml", base="a.toml", optim={"gamma": 0.5})
    assert read_recipe(path).notes == {("optim", "lr"): ("for a",)}
    path = write(tmp_path / "b.toml", base="a.toml", optim={"lr": 0.25})
    assert read_recipe(path).notes == {}
    assert "for a" not in as_toml(load_recipe(path), read_recipe(path))


def test_a_key_given_twice_in_a_setting_is_no_value():
    with pytest.raises(UsageError, match=r"recipe demo: optim\.lr: .*not '\{a=1,a=2\}'"):
        load_recipe("demo", ("optim.lr={a=1,a=2}",))
