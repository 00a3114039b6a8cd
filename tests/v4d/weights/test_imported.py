"""Imported networks compute what the networks do that they come from; and what does not fit is named."""

import pytest
import torch

from preprocess.errors import DataError
from tests.v4d.weights.plain_resnets import GREY, IMAGENET, PlainResNet, normalised
from v4d.config import DataConfig
from v4d.weights.foreign_names import NAMINGS
from v4d.weights.imported import check, read_foreign
from v4d.weights.weights_file import load_pretrained, save_weights

PIXELS = {"pytorchvideo": GREY, "pyslowfast": GREY}


def pixels(units, frames, side=40):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (units, 3, frames, side, side), dtype=torch.uint8, generator=generator)


def imported(plain, project, path, wrap=lambda state: state):
    torch.save(wrap(plain.state), path)
    model, found = read_foreign(path, project)
    check(found, path, strict=True)
    assert len(found.matched) == len(plain.state)
    assert not found.missing
    return model


@pytest.mark.parametrize(
    ("project", "depth", "wrap"),
    [
        ("pytorchvideo", 50, lambda state: {"model_state": state}),
        ("pyslowfast", 50, lambda state: {"epoch": 3, "model_state": state, "cfg": "NUM_GPUS: 8"}),
        ("mmaction2", 50, lambda state: {"meta": {"env": "x"}, "state_dict": state}),
        ("mmaction2", 18, lambda state: state),
    ],
)
@torch.no_grad()
def test_a_3d_network_computes_the_same(project, depth, wrap, tmp_path):
    plain = PlainResNet(project, depth)
    model = imported(plain, project, tmp_path / "theirs.pth", wrap)
    x = pixels(2, 5)
    expected = plain.scores(normalised(x, PIXELS.get(project, IMAGENET)))
    assert expected.std() > 0.1
    torch.testing.assert_close(model(x, 1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "stages"), [(18, (2, 3)), (50, (2,)), (50, (2, 3)), (50, ())])
@pytest.mark.parametrize("form", ["3d", "4d", "4d, k_U first"])
@torch.no_grad()
def test_a_released_network_computes_the_same(depth, stages, form, tmp_path):
    plain = PlainResNet("v4d-released", depth, every_4d=stages)
    forms = {"3d": lambda w: w, "4d": lambda w: w[..., None], "4d, k_U first": lambda w: w[..., None].movedim(2, 0)}
    x, units = pixels(8, 3), 4
    expected = plain.scores(normalised(x, IMAGENET), units)

    def wrap(state):
        given = {key: forms[form](value) if "tsa" in key else value for key, value in state.items()}
        return {"epoch": 1, "arch": "resnet", "state_dict": {f"module.{key}": value for key, value in given.items()}}

    model = imported(plain, "v4d-released", tmp_path / "theirs.pth.tar", wrap)
    blocks = {(18, 2): ["res3.1"], (18, 3): ["res4.1"], (50, 2): ["res3.1", "res3.3"]}
    blocks[50, 3] = ["res4.1", "res4.3", "res4.5"]
    assert list(model.config.blocks_4d) == [place for stage in stages for place in blocks[depth, stage]]
    assert expected.std() > 0.1
    torch.testing.assert_close(model(x, units), expected, rtol=1e-4, atol=1e-4)
    # The same again by way of the file.
    save_weights(tmp_path / "ours.safetensors", model, (), DataConfig())
    torch.testing.assert_close(
        load_pretrained(tmp_path / "ours.safetensors")(x, units), model(x, units), rtol=0, atol=0
    )


@torch.no_grad()
def test_pytorchvideos_own_slow_r50_computes_the_same(pytorchvideo, tmp_path):
    torch.manual_seed(0)
    theirs = pytorchvideo.slow_r50().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            # Theirs starts the last norm of a block at 0, which would hide its convolutions.
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(std=0.1)
    torch.nn.init.normal_(theirs.blocks[5].proj.weight, std=0.02)
    path = tmp_path / "SLOW_8x8_R50.pyth"
    torch.save({"model_state": theirs.state_dict()}, path)
    model, found = read_foreign(path, "pytorchvideo")
    check(found, path, strict=True)
    assert len(found.matched) == len(theirs.state_dict()) == 320
    x = pixels(1, 8, 224)
    expected = theirs(normalised(x, GREY))
    assert expected.std() > 0.1
    torch.testing.assert_close(model(x, 1), expected, rtol=1e-4, atol=1e-3)


def test_what_is_missing_and_unexpected_is_named(tmp_path):
    state = PlainResNet("mmaction2", 18).state
    del state["backbone.layer2.1.conv2.conv.weight"]
    del state["backbone.layer3.0.conv1.bn.num_batches_tracked"]
    state["backbone.layer1_lateral.conv.weight"] = torch.zeros(3)
    path = tmp_path / "theirs.pth"
    torch.save(state, path)
    model, found = read_foreign(path, "mmaction2")
    assert found.missing == ["layers.res3_1.conv2.weight"]
    assert found.unexpected == ["backbone.layer1_lateral.conv.weight"]
    lines = list(found.lines())
    assert lines[-1] == f"{len(state) - 1} matched, 1 missing, 1 unexpected"
    assert "missing     layers.res3_1.conv2.weight" in lines
    assert "unexpected  backbone.layer1_lateral.conv.weight" in lines
    assert "matched     cls_head.fc_cls.bias -> classifier.bias (7,)" in lines
    check(found, path, strict=False)
    with pytest.raises(DataError, match=r"lacks layers\.res3_1\.conv2\.weight"):
        check(found, path, strict=True)
    # What is missing is fresh, and the same at every call.
    again = read_foreign(path, "mmaction2")[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_strict_allows_a_fresh_classifier_only(tmp_path):
    plain, path = PlainResNet("mmaction2", 18), tmp_path / "theirs.pth"
    state = {key: value for key, value in plain.state.items() if "fc_cls" not in key}
    torch.save(state, path)
    with pytest.raises(DataError, match="has no classifier: name its classes with --classes"):
        read_foreign(path, "mmaction2")
    model, found = read_foreign(path, "mmaction2", ("run", "jump"))
    check(found, path, strict=True)
    assert (model.num_classes, model.classes) == (2, ("run", "jump"))
    torch.save({**state, "backbone.more": torch.zeros(3)}, path)
    with pytest.raises(DataError, match=r"has backbone\.more"):
        check(read_foreign(path, "mmaction2", ("run",))[1], path, strict=True)


def test_a_shape_that_differs_is_named_with_both_shapes(tmp_path):
    # PySlowFast's basic blocks are 3 frames deep in their first convolution only.
    plain, path = PlainResNet("pyslowfast", 18), tmp_path / "theirs.pth"
    key = "s4.pathway0_res0.branch2.b.weight"
    plain.state[key] = plain.state[key][:, :, 1:2].clone()
    torch.save(plain.state, path)
    _, found = read_foreign(path, "pyslowfast")
    here = r"\(32, 32, 1, 3, 3\) there, and layers\.res4_0\.conv2\.weight is \(32, 32, 3, 3, 3\) here"
    with pytest.raises(DataError, match=here) as error:
        check(found, path, strict=False)
    assert key in str(error.value)
    assert any(line.startswith(f"mismatched  {key}") for line in found.lines())


def without(*stages):
    return lambda state: {k: v for k, v in state.items() if not k.startswith(tuple(f"layer{s}" for s in stages))}


def narrow(state):
    names = ["conv1.weight", *(f"{norm}.{leaf}" for norm in ("bn1", "layer1.0.bn1") for leaf in ("weight", "bias"))]
    return {**state, **{name: torch.zeros(2) for name in [*names, "layer1.0.conv1.weight"]}}


@pytest.mark.parametrize(
    ("naming", "change", "says"),
    [
        ("pyslowfast", lambda state: state, "no key is named as in pyslowfast, but as in torchvision"),
        ("torchvision", lambda state: {"a.weight": torch.zeros(3)}, "as a.weight is not"),
        ("torchvision", without(4), r"2\+2\+2\+0 residual blocks of 2 convolutions are no network of v4d's"),
        ("torchvision", lambda state: {**state, "conv1.weight": torch.tensor(3.0)}, "conv1.weight is a single number"),
        ("torchvision", narrow, "base_width would be 2"),
    ],
)
def test_what_is_no_network_of_ours_is_said_in_one_line(naming, change, says, tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(change(PlainResNet("torchvision", 18, is_2d=True).state), path)
    with pytest.raises(DataError, match=says) as error:
        read_foreign(path, naming)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "there", "says"),
    [
        (
            "conv1.weight",
            (10**6, 3),
            r"conv1\.weight is of a network 1000000 channels wide, and bn1\.weight of one 8 wide",
        ),
        ("bn1.weight", (10**6,), r"conv1\.weight is of a network 8 channels wide, and bn1\.weight of one 1000000 wide"),
        ("layer1.0.conv1.weight", (9, 8), r"bn1\.weight is of a network 8 .* layer1\.0\.conv1\.weight of one 9 wide"),
    ],
)
def test_widths_that_differ_are_named_before_a_network_is_made(key, there, says, tmp_path):
    """One that is a million wide would take a thousand times the memory there is."""
    path = tmp_path / "theirs.pth"
    torch.save({**PlainResNet("torchvision", 18, is_2d=True).state, key: torch.zeros(there)}, path)
    with pytest.raises(DataError, match=says) as error:
        read_foreign(path, "torchvision")
    assert str(path) in str(error.value)


def test_what_does_not_fit_takes_no_memory(tmp_path):
    """A network of a few large norms, which nobody could hold."""
    state = PlainResNet("torchvision", 18, is_2d=True).state
    wide = {"conv1.weight": torch.zeros(10**6, 3), "layer1.0.conv1.weight": torch.zeros(10**6, 1)}
    norms = {f"{norm}.weight": torch.zeros(10**6) for norm in ("bn1", "layer1.0.bn1")}
    path = tmp_path / "theirs.pth"
    torch.save({**state, **wide, **norms}, path)
    _, found = read_foreign(path, "torchvision")
    with pytest.raises(
        DataError, match=r"conv1\.weight is \(1000000, 3\) there, and .* is \(1000000, 3, 1, 7, 7\) here"
    ):
        check(found, path, strict=False)


@pytest.mark.parametrize("shape", [(16, 16, 3, 3, 3), (16, 8, 3, 3, 1), (16, 16, 2, 3, 1), (16, 16)])
def test_a_4d_kernel_of_unknown_form_is_refused(shape, tmp_path):
    plain, path = PlainResNet("v4d-released", 18, every_4d=(2,)), tmp_path / "theirs.pth"
    plain.state["base_model.layer2.2.tsa.weight"] = torch.zeros(shape)
    torch.save(plain.state, path)
    with pytest.raises(DataError, match=r"base_model\.layer2\.2\.tsa\.weight is .* no known form of a 4D kernel"):
        read_foreign(path, "v4d-released")


def test_4d_kernels_that_differ_are_refused(tmp_path):
    plain, path = PlainResNet("v4d-released", 18, every_4d=(2, 3)), tmp_path / "theirs.pth"
    plain.state["base_model.layer2.2.tsa.weight"] = torch.zeros(16, 16, 3, 1, 1)
    torch.save(plain.state, path)
    with pytest.raises(DataError, match=r"\(3, 1, 1, 1\) at res3\.1, \(3, 3, 1, 1\) at res4\.1"):
        read_foreign(path, "v4d-released")


def test_the_command_offers_all_namings():
    from v4d.weights import commands

    assert set(commands._NAMINGS) == set(NAMINGS)
