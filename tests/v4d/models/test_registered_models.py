"""Every network of the registry, at a small width: what holds of all of them."""

import copy

import pytest
import torch

from v4d import create_model, list_models
from v4d.models.registry import registered

EVERY = pytest.mark.parametrize("name", list_models())
UNITS = 3


def small(name, num_classes=5, **overrides):
    torch.manual_seed(0)
    return create_model(name, num_classes, **{"base_width": 8, "dropout": 0.0, "norm_init_4d": 1.0, **overrides})


def pixels(frames=2, side=48):
    torch.manual_seed(1)
    return torch.randint(0, 256, (2 * UNITS, 3, frames, side, side), dtype=torch.uint8)


@EVERY
def test_shapes(name):
    model = small(name).eval()
    for frames, side in ((1, 32), (3, 50)):
        x = pixels(frames, side)
        features = model.forward_features(x, UNITS)
        assert features.shape == (2 * UNITS, model.num_features, frames, -(-side // 32), -(-side // 32))
        assert model(x, UNITS).shape == (2, 5)
        assert model(x, 1).shape == (2 * UNITS, 5)


@EVERY
def test_head_and_features_are_the_whole(name):
    model, x = small(name).eval(), pixels()
    assert torch.equal(model.forward_head(model.forward_features(x, UNITS), UNITS), model(x, UNITS))


@EVERY
def test_reset_classifier(name):
    model, x = small(name).eval(), pixels()
    features = model.forward_features(x, UNITS)
    model.to(torch.float64).reset_classifier(9)
    assert model.classifier.weight.dtype == torch.float64
    model.to(torch.float32)
    assert model.num_classes == 9
    assert model(x, UNITS).shape == (2, 9)
    assert torch.equal(model.forward_features(x, UNITS), features)
    with pytest.raises(ValueError, match="num_classes must be 1 or more, not 0"):
        model.reset_classifier(0)


@EVERY
def test_gradients_reach_every_parameter(name):
    model = small(name)
    # The max-pools of a smaller frame leave some stage with one position, where a norm leaves nothing.
    (model(pixels(side=64), UNITS) * torch.randn(2, 5)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@EVERY
def test_state_round_trip(name):
    model, x = small(name), pixels()
    model(x, UNITS)
    other = small(name).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(x, UNITS), model.eval()(x, UNITS))


@EVERY
def test_bytes_and_floats_are_the_same_pixels(name):
    model, x = small(name).eval(), pixels()
    assert torch.equal(model(x, UNITS), model(x.float(), UNITS))


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, dtype):
    model, x = small(name).eval(), pixels()
    with torch.autocast("cpu", dtype):
        logits = model(x, UNITS)
    assert logits.dtype == dtype
    exact = model(x, UNITS)
    assert (logits.float() - exact).abs().max() < 0.05 * exact.abs().max()


@EVERY
def test_a_fresh_network_is_the_mean_over_its_units(name):
    """Whatever its blocks: with their norms at 0 all begin as the identity."""
    model, x = small(name, norm_init_4d=0.0).eval(), pixels()
    torch.testing.assert_close(model(x, UNITS), model(x, 1).unflatten(0, (2, UNITS)).mean(dim=1))


@EVERY
def test_compiles_without_a_graph_break(name):
    model, x = small(name).eval(), pixels(side=32)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x, UNITS), model(x, UNITS))


@EVERY
def test_the_setting_fits_the_name(name):
    setting = registered(name)
    assert setting.model.depth == int(name.split("resnet")[1][:2])
    assert (setting.data.units == 1) == name.startswith("i3d_s")
    assert bool(setting.model.blocks_4d) == any(part in name for part in ("v4d", "nonlocal", "cgnl", "plus_plus"))
    assert setting.units_infer >= setting.data.units


def test_list_models():
    assert {"v4d_resnet18", "v4d_resnet50", "tsn_resnet50", "i3d_s_resnet18_plus_plus"} <= set(list_models())
    assert list_models("v4d_*") == ["v4d_resnet18", "v4d_resnet50"]
    assert list_models("nothing*") == []


def test_overrides():
    model = small("v4d_resnet18", blocks_4d=("res2.0",), kernel_4d=(5, 1, 1, 1))
    assert model.layers["res2_0_4d"].conv.weight.shape == (8, 8, 5, 1, 1, 1)
    assert create_model("v4d_resnet18", 200, base_width=4).classifier.weight.shape[0] == 200


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("v4d_resnet81", {}, r"no model 'v4d_resnet81' \(did you mean 'v4d_resnet18'\?\); there are i3d_s_resnet18,"),
        ("v4d_resnet18", {"droput": 0.1}, r"'v4d_resnet18' has no 'droput' \(did you mean 'dropout'\?\)"),
        ("v4d_resnet18", {"dropout": 1.5}, "'v4d_resnet18': dropout: .*less than 1, not 1.5"),
        ("v4d_resnet18", {"blocks_4d": ("res3.7",)}, "'res3.7', ResNet-18 has res2.0"),
        ("v4d_resnet18", {"kernel_4d": (2, 3, 1, 1)}, r"odd extents, not \(2, 3, 1, 1\)"),
        ("v4d_resnet18", {"block_4d": "conv5d"}, "block_4d: .*'conv4d', 'nonlocal' or 'cgnl', not 'conv5d'"),
        ("v4d_resnet18", {"block_4d": "cgnl", "base_width": 4}, "divisible by 16, res3.1 has 8 with base_width 4"),
        ("v4d_resnet18", {"num_classes": 0}, "num_classes must be 1 or more, not 0"),
    ],
)
def test_what_cannot_be_is_refused(name, overrides, says):
    with pytest.raises(ValueError, match=says):
        create_model(name, **overrides)
