"""4D blocks in networks that know nothing of them: one built here, and two of pytorchvideo's."""

import copy
import pickle

import pytest
import torch
from torch import nn

from v4d import cast_to_4d
from v4d.models.residual_4d import Residual4dBlock


class Foreign(nn.Module):
    """Strides in time and space, features that are negative (pre-activation), a layer that is a Sequential."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 3, stride=(2, 2, 2), padding=1)
        self.stage = nn.ModuleList(
            [
                nn.Sequential(nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 8, 3, padding=1)),
                nn.Sequential(nn.BatchNorm3d(8), nn.ReLU(inplace=True), nn.Conv3d(8, 10, 3, stride=2, padding=1)),
            ]
        )
        self.head = nn.Linear(10, 5)
        self.unused = nn.Identity()
        self.pair = _Pair()

    def forward(self, x):
        x = self.stem(x)
        for layer in self.stage:
            x = layer(x)
        return self.head(self.pair(x)[0].mean(dim=(2, 3, 4)))


class _Pair(nn.Module):
    def forward(self, x):
        return x, x


SIZE = (3, 8, 16, 16)
LAYERS = ["stage.0", "stage.1"]


@pytest.fixture
def foreign():
    torch.manual_seed(0)
    return Foreign()


def x_of(units, videos=2, size=SIZE):
    torch.manual_seed(1)
    return torch.randn(videos * units, *size)


def averaged(model, x, units):
    return model(x).unflatten(0, (-1, units)).mean(dim=1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block", ["conv4d", "cgnl", "nonlocal"])
@pytest.mark.parametrize("units", [1, 4])
def test_a_fresh_cast_is_the_network_averaged_over_units(units, block, training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 16, 3, stride=2), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(128, 5))
    model.train(training)
    cast = cast_to_4d(model, ["0", "1"], units, input_size=SIZE, block=block)
    assert all(module.training == training for module in cast.modules())
    assert torch.equal(cast(x_of(units)), averaged(model, x_of(units), units))


def test_the_channels_are_those_of_each_layer(foreign):
    cast = cast_to_4d(foreign, LAYERS, 4, kernel=(3, 1, 1, 1), input_size=SIZE)
    shapes = {name: tuple(block.conv.weight.shape) for name, block in cast.blocks_4d.items()}
    assert shapes == {"stage/0": (8, 8, 3, 1, 1, 1), "stage/1": (10, 10, 3, 1, 1, 1)}
    foreign.eval(), cast.eval()
    assert torch.equal(cast(x_of(4)), averaged(foreign, x_of(4), 4))


def test_the_network_that_is_cast_stays_as_it_was(foreign):
    foreign.stage[0].eval()
    modes = [module.training for module in foreign.modules()]
    state = copy.deepcopy(foreign.state_dict())
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, norm_init=1.0)
    assert [module.training for module in foreign.modules()] == modes
    assert [module.training for module in cast.model.modules()] == modes
    assert not any(module._forward_hooks for module in foreign.modules())
    for held in (foreign.state_dict(), cast.model.state_dict()):
        assert list(held) == list(state)
        assert all(torch.equal(held[name], value) for name, value in state.items())
    cast(x_of(4)).sum().backward()
    assert all(parameter.grad is None for parameter in foreign.parameters())


def test_the_blocks_relate_units_where_they_are(foreign):
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, norm_init=1.0).eval()
    x = x_of(4, videos=1)
    assert not torch.allclose(cast(x), cast(x.flip(0)), atol=1e-4)
    by_hand = foreign.eval().stage[0](foreign.stem(x))
    by_hand = cast.blocks_4d["stage/0"](by_hand, 4)
    by_hand = cast.blocks_4d["stage/1"](foreign.stage[1](by_hand), 4)
    torch.testing.assert_close(cast(x), foreign.head(by_hand.mean(dim=(2, 3, 4))).mean(dim=0, keepdim=True))


def test_every_parameter_learns(foreign):
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, norm_init=1.0)
    cast(x_of(4)).square().sum().backward()
    for name, parameter in cast.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_activation_is_a_choice(foreign):
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, activation=True).eval()
    assert not torch.equal(cast(x_of(4)), averaged(foreign.eval(), x_of(4), 4))
    assert all(block.activation for block in cast.blocks_4d.values())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cast: pickle.loads(pickle.dumps(cast))])
def test_a_copy_has_blocks_of_its_own(foreign, copied):
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, norm_init=1.0).eval()
    other = copied(cast)
    before = cast(x_of(4))
    assert torch.equal(other(x_of(4)), before)
    with torch.no_grad():
        for parameter in other.blocks_4d.parameters():
            parameter.fill_(0.3)
    assert torch.equal(cast(x_of(4)), before)
    assert not torch.allclose(other(x_of(4)), before)


def test_state_round_trip(foreign):
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, norm_init=1.0).eval()
    other = cast_to_4d(Foreign(), LAYERS, 4, input_size=SIZE).eval()
    other.load_state_dict(cast.state_dict())
    assert torch.equal(other(x_of(4)), cast(x_of(4)))


def test_compiles_without_a_graph_break_and_exports(foreign):
    cast = cast_to_4d(foreign, LAYERS, 4, input_size=SIZE, norm_init=1.0).eval()
    x = x_of(4)
    expected = cast(x)
    torch.testing.assert_close(torch.compile(cast, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(cast, (x,)).module()(x), expected)


def test_no_value_is_computed_to_find_the_channels():
    """A clip of this size would take 100 GB."""
    model = nn.Sequential(nn.Conv3d(3, 16, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    cast = cast_to_4d(model, ["0"], 4, input_size=(3, 512, 896, 896))
    assert cast.blocks_4d["0"].conv.weight.shape[:2] == (16, 16)


def test_the_blocks_are_of_the_networks_dtype_and_on_its_device(foreign):
    cast = cast_to_4d(foreign.to("meta", torch.bfloat16), LAYERS, 4, input_size=SIZE)
    assert {(p.device.type, p.dtype) for p in cast.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    ("layers", "options", "says"),
    [
        (["stages.1"], {}, r"no layer 'stages.1' \(did you mean 'stage.1'\?\)"),
        (["stem", "stem"], {}, "layers has 'stem' 2 times"),
        (["unused"], {}, "layer 'unused' is not run"),
        (["pair"], {}, "layer 'pair' gives tuple, not a tensor of 5"),
        (["head"], {}, r"layer 'head' gives \(4, 5\) for 4 units, not 5 dimensions"),
        (["stem"], {"kernel": (2, 3, 1, 1)}, r"odd, not \(2, 3, 1, 1\)"),
        (["stem"], {"num_units": 0}, "num_units must be 1 or more, not 0"),
        (["stem"], {"input_size": (4, 8, 16, 16)}, r"does not take input_size=\(4, 8, 16, 16\): .*4 channels"),
        (["stem"], {"block": "cgnl"}, "groups=8 does not divide half of channels=6"),
    ],
)
def test_what_does_not_fit_is_refused(foreign, layers, options, says):
    options = {"num_units": 4, "input_size": SIZE, **options}
    with pytest.raises(ValueError, match=says):
        cast_to_4d(foreign, layers, **options)


def test_a_network_that_gives_no_scores_is_refused():
    with pytest.raises(ValueError, match=r"the network gives \(2, 4, 8, 16, 16\) for 2 units, not 2 dimensions"):
        cast_to_4d(nn.Sequential(nn.Conv3d(3, 4, 1)), ["0"], 2, input_size=SIZE)


def test_units_that_do_not_divide_are_refused(foreign):
    with pytest.raises(ValueError, match="units=4 does not divide the 6"):
        cast_to_4d(foreign, LAYERS, 4, input_size=SIZE)(x_of(3))


def with_statistics(model):
    """Norms as after training: else a network of random weights may give all but the same for any video."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "size", "layers", "channels"),
    [
        ("slow_r50", (3, 8, 224, 224), ["blocks.2.res_blocks.1", "blocks.3.res_blocks.5"], [512, 1024]),
        ("x3d_s", (3, 13, 160, 160), ["blocks.2", "blocks.3.res_blocks.4"], [48, 96]),
    ],
)
def test_pytorchvideos_networks(pytorchvideo, name, size, layers, channels):
    model = with_statistics(getattr(pytorchvideo, name)())
    cast = cast_to_4d(model, layers, 2, input_size=size)
    assert [block.conv.weight.shape[0] for block in cast.blocks_4d.values()] == channels
    assert all(isinstance(block, Residual4dBlock) for block in cast.blocks_4d.values())
    x = x_of(2, videos=1, size=size)
    with torch.no_grad():
        expected = averaged(model, x, 2)
        assert torch.equal(cast(x), expected)
        for block in cast.blocks_4d.values():
            nn.init.ones_(block.norm.weight)
        assert not torch.allclose(cast(x), expected, rtol=1e-3)
