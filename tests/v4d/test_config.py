"""Recipes: those that are packaged, what overrides them, and one clear line for what is wrong."""

import pytest

from pipelines import Sampling
from preprocess.errors import UsageError
from v4d.config import Recipe
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe, packaged_recipes
from v4d.schedule import learning_rate


@pytest.mark.parametrize("name", list(packaged_recipes()))
def test_packaged_recipes_make_networks(name):
    recipe = load_recipe(name)
    assert recipe.about
    assert recipe.name == name
    assert len(V4D(recipe.model, 3).classifier.weight) == 3
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_settings_override():
    recipe = load_recipe("demo", ("optim.lr=0.5", "model.blocks_4d=[]", "optim.schedule=step", "train.seed = 3"))
    assert (recipe.optim.lr, recipe.model.blocks_4d, recipe.optim.schedule, recipe.train.seed) == (0.5, (), "step", 3)


def test_what_is_sampled():
    data = load_recipe(
        "demo", ("data.over=segment", "data.keyframe_starts=true", "data.fit_stride=true", "data.test_crop=64")
    ).data
    assert data.train_sampling() == Sampling(4, 4, 8, 48, True, None, (1.0, 0.875), "segment", True)
    # Test units are centred, and the stride is that of training.
    assert data.test_sampling(10) == Sampling(10, 4, 8, 64, True, fit_to=4, over="segment")


def test_a_file_is_a_recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[data]\nunits = 2\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.data.units, recipe.data.frames) == ("mine", 2, 4)


@pytest.mark.parametrize(
    ("name", "setting", "says"),
    [
        ("demmo", None, "no recipe 'demmo' (did you mean 'demo'?)"),
        ("demo", "optim.lrr=1", "no 'optim.lrr' (did you mean 'lr'?)"),
        ("demo", "optimm.lr=1", "no 'optimm' (did you mean 'optim'?)"),
        ("demo", "optim.lr=-1", "optim.lr: Input should be greater than 0, not -1"),
        ("demo", "optim.lr=fast", "optim.lr"),
        ("demo", "optim.lr=inf", "optim.lr: Input should be a finite number, not inf"),
        ("demo", "model.mean=[nan, 1, 1]", "model.mean"),
        ("demo", "lr", "expected section.key=value"),
        ("demo", "name.x=1", "'name' is no section"),
        ("demo", 'model.blocks_4d=["res3.7"]', "'res3.7', ResNet-18 has res2.0"),
        ("demo", "model.kernel_4d=[2,3,1,1]", "must be odd extents"),
        ("demo", "model.depth=34", "model.depth"),
        ("demo", "data.scales=[]", "data.scales"),
        ("demo", "data.scales=[2.0]", "less than or equal to 1, not 2.0"),
        ("demo", "optim.momentum=0", "nesterov needs a momentum above 0"),
        ("demo", "train.autotune=true", "autotune is of compiled kernels: it needs compile"),
        ("demo", "data.over=clips", "data.over: Input should be 'video' or 'segment', not 'clips'"),
        ("demo", "data.units=0", "data.units: Input should be greater than or equal to 1, not 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name, setting, says):
    with pytest.raises(UsageError) as error:
        load_recipe(name, (setting,) if setting else ())
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_said_in_one_line(tmp_path):
    (tmp_path / "broken.toml").write_text("[data\n")
    with pytest.raises(UsageError, match=r"broken\.toml is no TOML"):
        load_recipe(str(tmp_path / "broken.toml"))
    (tmp_path / "empty.toml").write_text("# nothing\n")
    with pytest.raises(UsageError, match=r"empty\.toml is no recipe: it is empty"):
        load_recipe(str(tmp_path / "empty.toml"))


def test_step_schedule_is_the_papers():
    recipe = load_recipe("v4d_resnet18")
    rates = {epoch: learning_rate(recipe, epoch * 10, 10) for epoch in (0, 34, 35, 59, 60, 79, 80, 99)}
    expected = [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    assert list(rates.values()) == pytest.approx(expected)


def test_cosine_schedule_warms_up_and_falls_to_nothing():
    recipe = load_recipe("demo", ("optim.warmup_epochs=2", "optim.epochs=10", "optim.lr=0.1"))
    rates = [learning_rate(recipe, step, 5) for step in range(50)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
