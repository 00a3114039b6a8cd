"""Where a run's weights come from: what is taken, what stays fresh, and what is refused."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cli import main
from preprocess.errors import DataError, UsageError
from tests.v4d.weights.plain_resnets import PlainResNet
from v4d.checkpoint import find_checkpoint, load_checkpoint
from v4d.config import DataConfig, ModelConfig
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe
from v4d.train import train
from v4d.weights import initial
from v4d.weights.initial import initialise
from v4d.weights.weights_file import save_weights

GREY = {"mean": (114.75,) * 3, "std": (57.375,) * 3}


def network(classes=7, seed=1, **config):
    torch.manual_seed(seed)
    return V4D(ModelConfig(**{"base_width": 8, **config}), classes)


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, after):
    """The layers of which a weight has changed, without norms' counters."""
    names = [n for n in before if not torch.equal(before[n], after.state_dict()[n]) and "num_batches" not in n]
    return {name.split(".")[1] if name.startswith("layers.") else name.split(".")[0] for name in names}


@pytest.fixture
def resnet(tmp_path):
    """The file of a ResNet-18 of torchvision's, 8 wide, of 7 classes."""
    path = tmp_path / "resnet.pth"
    torch.save(PlainResNet("torchvision", 18, is_2d=True).state, path)
    return path


@pytest.mark.parametrize("form", ["{}", "imagenet={}"])
def test_a_2d_network_is_inflated(form, resnet):
    model = network(classes=5)
    before = copied(model)
    assert initialise(model, form.format(resnet)) == f"weights from {resnet}; fresh: classifier, res3_1_4d, res4_1_4d"
    layers = {name for name in model.layers if "_4d" not in name}
    assert changed(before, model) == layers
    theirs = torch.load(resnet)
    kernel = model.layers["res5_1"].conv2.weight
    torch.testing.assert_close(kernel.sum(2), theirs["layer4.1.conv2.weight"])
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 2])
    assert torch.equal(model.layers["res5_1"].norm2.running_var, theirs["layer4.1.bn2.running_var"])


def test_2d_kernels_are_put_at_the_middle(resnet):
    model, theirs = network(), torch.load(resnet)
    said = initialise(model, f"imagenet-center={resnet}")
    assert said == f"weights from {resnet}; fresh: res3_1_4d, res4_1_4d"
    kernel = model.layers["res5_1"].conv2.weight
    assert torch.equal(kernel[:, :, 1], theirs["layer4.1.conv2.weight"])
    assert not kernel[:, :, [0, 2]].any()


def test_imagenet_says_what_a_file_holds_whatever_its_name(resnet, tmp_path):
    path, ours = tmp_path / "resnet.safetensors", tmp_path / "ours.safetensors"
    save_file(torch.load(resnet), path)
    expected, model = network(), network()
    initialise(expected, str(resnet))
    assert initialise(model, f"imagenet={path}") == f"weights from {path}; fresh: res3_1_4d, res4_1_4d"
    assert not changed(copied(expected), model)
    save_weights(ours, model, (), DataConfig())
    with pytest.raises(DataError, match=r"ours\.safetensors is a weights file of v4d: name it without imagenet="):
        initialise(network(), f"imagenet={ours}")
    with pytest.raises(DataError, match="name it without imagenet-center="):
        initialise(network(), f"imagenet-center={ours}")
    with pytest.raises(DataError, match="is a safetensors file of another program"):
        initialise(network(), str(path))


def test_a_classifier_of_as_many_classes_is_taken(resnet):
    model = network(classes=7)
    assert initialise(model, str(resnet)).endswith("fresh: res3_1_4d, res4_1_4d")
    assert torch.equal(model.classifier.bias, torch.load(resnet)["fc.bias"])


def test_fresh_4d_blocks_that_change_the_trained_network_are_noted(resnet):
    note = "(model.norm_init_4d = 0.5: with 0 they would leave the trained network as it is)"
    assert initialise(network(norm_init_4d=0.5), str(resnet)).endswith(note)
    assert "norm_init" not in initialise(network(norm_init_4d=0.5, blocks_4d=()), str(resnet))
    assert "norm_init" not in initialise(network(norm_init_4d=0.5, norm_4d=False), str(resnet))


def test_the_layout_of_the_weights_stays(resnet):
    model = network().to(memory_format=torch.channels_last_3d)
    initialise(model, str(resnet))
    assert model.layers["res4_0"].conv1.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_weights_file_with_other_4d_blocks(tmp_path):
    path = tmp_path / "ours.safetensors"
    source = network(seed=2, blocks_4d=("res3.1",), norm_init_4d=0.5)
    save_weights(path, source, (), DataConfig())
    model = network(classes=5, blocks_4d=("res3.1", "res5.0"))
    before = copied(model)
    assert initialise(model, str(path)) == f"weights from {path}; fresh: classifier, res5_0_4d"
    assert changed(before, model) == set(model.layers) - {"res5_0_4d"}
    taken = {
        name: value for name, value in model.state_dict().items() if "classifier" not in name and "5_0_4d" not in name
    }
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in taken.items())


def test_a_classifier_goes_by_the_names_of_its_classes(tmp_path):
    path, ours = tmp_path / "ours.safetensors", ("walk", "run", "jump")
    source = network(classes=3, seed=2)
    torch.nn.init.normal_(source.classifier.bias)
    save_weights(path, source, ("jump", "walk", "run"), DataConfig())

    model = network(classes=3)
    said = initialise(model, str(path), ours)
    assert said == f"weights from {path}; fresh: none; the classifier's rows are put in the dataset's order"
    assert torch.equal(model.classifier.weight, source.classifier.weight[[1, 2, 0]])
    assert torch.equal(model.classifier.bias, source.classifier.bias[[1, 2, 0]])

    model = network(classes=3)
    before = copied(model)
    said = initialise(model, str(path), ("walk", "run", "fall"))
    assert said == f"weights from {path}; fresh: classifier (of other classes there: only one side has 'fall')"
    assert changed(before, model) == set(model.layers)

    model = network(classes=3)
    assert initialise(model, str(path), ("jump", "walk", "run")) == f"weights from {path}; fresh: none"
    assert torch.equal(model.classifier.weight, source.classifier.weight)

    # Nobody knows what they are: as many are taken for the same.
    save_weights(path, source, (), DataConfig())
    model = network(classes=3)
    assert initialise(model, str(path), ours) == f"weights from {path}; fresh: none"
    assert torch.equal(model.classifier.weight, source.classifier.weight)


def test_a_source_of_another_recipe_than_it_should_be_is_told_of(dataset, tmp_path):
    tiny = ("model.base_width=4", "data.train_crop=32", "data.frames=2", "train.global_batch=12", "optim.epochs=1")
    run, path = tmp_path / "run", tmp_path / "ours.safetensors"
    recipe = load_recipe("demo", (*tiny, "train.validate_every=0"))
    train(recipe, dataset.root, run, 0)
    exported = CliRunner().invoke(main, ["export-weights", str(run), "--out", str(path)])
    assert exported.exit_code == 0, exported.output
    for source, called in ((run, find_checkpoint(run)), (path, path)):
        model = V4D(recipe.model, len(dataset.classes))
        first, second = initialise(model, str(source), dataset.classes, "demo_held").splitlines()
        assert first == f"weights from {called}; fresh: none"
        assert second.startswith(f"note: {called} is of recipe demo, and train.starts_from = demo_held: ")
        for right in ("demo", ""):
            assert initialise(model, str(source), dataset.classes, right) == first
    # Nobody knows what it is of.
    save_weights(path, model, (), DataConfig(), "slow_r50, step by step")
    assert len(initialise(model, str(path), dataset.classes, "demo_held").splitlines()) == 1


def test_a_run_takes_no_row_of_another_class(dataset, tmp_path):
    path, names = tmp_path / "ours.safetensors", list(dataset.classes)
    source = network(classes=len(names), seed=2, base_width=4)
    save_weights(path, source, [*names[1:], names[0]], DataConfig())
    tiny = ("model.base_width=4", "data.train_crop=32", "data.frames=2", "train.global_batch=12", "optim.lr=1e-12")
    recipe = load_recipe("demo", (*tiny, "optim.epochs=1", "train.validate_every=0", f"train.init={path}"))
    train(recipe, dataset.root, tmp_path / "run", 0)
    rows = load_checkpoint(tmp_path / "run").model["classifier.weight"]
    torch.testing.assert_close(rows, source.classifier.weight.detach().roll(1, 0))


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        ({}, {"depth": 50}, r"layers\.res2_0\.conv1\.weight is \(8, 8, 1, 3, 3\) there and \(8, 8, 1, 1, 1\) here"),
        ({}, {"blocks_4d": ()}, r"layers\.res3_1_4d\.conv\.weight is .* there and no such weight here"),
        ({}, {"norm_4d": False}, r"layers\.res3_1_4d\.norm\.bias is \(16,\) there and no such weight here"),
        ({"norm_4d": False}, {}, r"layers\.res3_1_4d\.norm\.bias is missing there and \(16,\) here"),
        ({}, {"kernel_4d": (3, 1, 1, 1)}, r"\(16, 16, 3, 3, 1, 1\) there and \(16, 16, 3, 1, 1, 1\) here"),
    ],
)
def test_a_weights_file_of_another_network_is_refused(theirs, ours, says, tmp_path):
    path = tmp_path / "ours.safetensors"
    save_weights(path, network(seed=2, **theirs), (), DataConfig())
    model = network(**ours)
    before = copied(model)
    with pytest.raises(DataError, match=says):
        initialise(model, str(path))
    assert not changed(before, model)


def test_other_pixels_are_refused_with_the_setting_that_helps(tmp_path):
    path = tmp_path / "ours.safetensors"
    save_weights(path, network(seed=2, **GREY), (), DataConfig())
    help_ = r"--set model\.mean='\[114\.75, 114\.75, 114\.75\]' --set model\.std='\[57\.375, 57\.375, 57\.375\]'"
    with pytest.raises(UsageError, match=help_):
        initialise(network(), str(path))
    initialise(network(**GREY), str(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("layer2.0.bn1.bias"), r"lacks layers\.res3_0\.norm1\.bias"),
        (lambda state: state.update({"layer2.0.se.weight": torch.zeros(3)}), r"has layer2\.0\.se\.weight"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(8, 3, 3, 3)}),
            r"conv1\.weight is \(8, 3, 3, 3\) there, and layers\.stem\.0\.weight is \(8, 3, 1, 7, 7\) here",
        ),
    ],
)
def test_a_2d_network_that_differs_is_refused(change, says, resnet):
    state = torch.load(resnet)
    change(state)
    torch.save(state, resnet)
    model = network()
    before = copied(model)
    with pytest.raises(DataError, match=says):
        initialise(model, str(resnet))
    assert not changed(before, model)


def test_a_network_of_another_project_is_to_be_imported_first(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(PlainResNet("pyslowfast", 50).state, path)
    with pytest.raises(DataError, match="v4d import-weights --from pyslowfast"):
        initialise(network(depth=50), str(path))
    torch.save({"a.weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match=r"is no ResNet of torchvision: it has a\.weight"):
        initialise(network(), str(path))
    with pytest.raises(DataError, match="there is no file nowhere"):
        initialise(network(), "nowhere")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's cache, and no network: nobody listens there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "hub" / "checkpoints"


def kept(cache, depth, content, monkeypatch):
    """A file in the cache whose name tells its hash, and which is that of ResNet-``depth``."""
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(content, cache / "new")
    name = f"resnet{depth}-{hashlib.sha256((cache / 'new').read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(initial._FILES, depth, name)
    return (cache / "new").rename(cache / name)


@pytest.mark.parametrize(("depth", "name"), [(18, "resnet18-f37072fd.pth"), (50, "resnet50-0676ba61.pth")])
def test_imagenet_is_fetched_once(depth, name, cache, monkeypatch):
    model = network(depth=depth, base_width=64, blocks_4d=())
    before = copied(model)
    with pytest.raises(DataError, match=rf"{name} cannot be fetched .*--init imagenet=FILE") as error:
        initialise(model, "imagenet")
    assert "\n" not in str(error.value)
    assert not changed(before, model)
    assert not list(cache.glob("*"))
    resnet = PlainResNet("torchvision", depth, width=64, classes=10, is_2d=True).state
    path = kept(cache, depth, resnet, monkeypatch)
    for init in ("imagenet", "imagenet-center"):
        assert initialise(model, init) == f"weights from {path.name}; fresh: classifier"
    with pytest.raises(UsageError, match=r"wants model\.base_width = 64, not 8"):
        initialise(network(depth=depth), "imagenet")


def test_a_fetched_file_that_is_kept_is_checked_again(cache, monkeypatch):
    path = kept(cache, 18, {"conv1.weight": torch.zeros(64, 3, 7, 7)}, monkeypatch)
    content = path.read_bytes()
    model = network(base_width=64)
    before = copied(model)
    for i in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :])
        with pytest.raises(DataError, match=r"is damaged: .* remove it, to have it fetched anew") as error:
            initialise(model, "imagenet")
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    assert not changed(before, model)


def test_a_kept_file_with_something_else_in_it(cache, monkeypatch):
    kept(cache, 18, [torch.zeros(3)], monkeypatch)
    with pytest.raises(DataError, match="holds no state dict, which is tensors by name, but a list"):
        initialise(network(base_width=64), "imagenet")


def test_a_run_begins_with_the_weights_and_goes_on_without_them(dataset, resnet, tmp_path):
    run, tiny = tmp_path / "run", ["model.base_width=8", "optim.lr=1e-12", "train.global_batch=12", "optim.epochs=1"]
    sets = [part for setting in tiny for part in ("--set", setting)]
    command = [
        *(sys.executable, "-m", "cli", "train", "--gpus", "0", "--data", str(dataset.root), "--recipe", "demo"),
        *("--out", str(run), "--init", str(resnet), *sets),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    done = subprocess.run([*command, "--procs", "2"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"weights from {resnet}; fresh: classifier, res3_1_4d, res4_1_4d" in done.stdout
    checkpoint = load_checkpoint(run)
    assert checkpoint.recipe.train.init == str(resnet)
    theirs = torch.load(resnet)
    torch.testing.assert_close(checkpoint.model["layers.stem.0.weight"].squeeze(2), theirs["conv1.weight"])
    resnet.unlink()
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert "is finished, at step 2" in again.stdout
    new = subprocess.run([*command, "--out", str(tmp_path / "new")], capture_output=True, text=True)
    assert new.returncode == 1
    assert new.stderr == f"v4d: there is no file {resnet}\n"
