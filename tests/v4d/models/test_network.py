"""The networks: a fresh V4D is TSN, blocks of any kind at any places, errors that name what does not fit."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from v4d.config import ModelConfig
from v4d.models.conv4d import Conv4d
from v4d.models.network import V4D
from v4d.models.units import InterUnitBlock

SMALL = {"base_width": 4, "dropout": 0.0}


@pytest.mark.parametrize(
    ("depth", "units", "frames", "side"), list(itertools.product([18, 50], [1, 4], [1, 4], [32, 48]))
)
def test_shapes(depth, units, frames, side):
    model = V4D(ModelConfig(depth=depth, **SMALL), 7)
    x = torch.randint(0, 256, (2 * units, 3, frames, side, side), dtype=torch.uint8)
    assert model(x, units).shape == (2, 7)
    features = model.forward_features(x, units)
    assert features.shape == (2 * units, model.num_features, frames, -(-side // 32), -(-side // 32))
    assert model.num_features == 4 * 8 * (1 if depth == 18 else 4)


@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3)])
def test_a_fresh_v4d_is_tsn(kernel):
    torch.manual_seed(0)
    v4d = V4D(ModelConfig(kernel_4d=kernel, **SMALL), 5)
    tsn = V4D(ModelConfig(blocks_4d=(), **SMALL), 5)
    tsn.load_state_dict({k: v for k, v in v4d.state_dict().items() if "_4d" not in k})
    x = torch.randint(0, 256, (8, 3, 2, 32, 32), dtype=torch.uint8)
    assert torch.equal(v4d(x, 4), tsn(x, 4))
    unit_scores = tsn.eval()(x, 1).unflatten(0, (2, 4)).mean(dim=1)
    torch.testing.assert_close(v4d.eval()(x, 4), unit_scores)


@pytest.mark.parametrize("kind", ["nonlocal", "cgnl"])
def test_a_fresh_network_with_other_blocks_is_tsn(kind):
    torch.manual_seed(0)
    other = V4D(ModelConfig(block_4d=kind, base_width=8, dropout=0.0), 5)
    tsn = V4D(ModelConfig(blocks_4d=(), base_width=8, dropout=0.0), 5)
    tsn.load_state_dict({k: v for k, v in other.state_dict().items() if "_4d" not in k})
    x = torch.randint(0, 256, (8, 3, 2, 32, 32), dtype=torch.uint8)
    assert torch.equal(other(x, 4), tsn(x, 4))


def test_4d_blocks_relate_units():
    torch.manual_seed(0)
    model = V4D(ModelConfig(norm_init_4d=1.0, **SMALL), 5).eval()
    x = torch.randint(0, 256, (4, 3, 2, 32, 32), dtype=torch.uint8)
    assert not torch.allclose(model(x, 4), model(x.flip(0), 4), atol=1e-4)


def test_layout_does_not_change_the_result():
    torch.manual_seed(0)
    model = V4D(ModelConfig(norm_init_4d=1.0, **SMALL), 5).eval()
    x = torch.randint(0, 256, (8, 3, 4, 48, 48), dtype=torch.uint8)
    plain = model(x, 4)
    last = torch.channels_last_3d
    torch.testing.assert_close(model.to(memory_format=last)(x.contiguous(memory_format=last), 4), plain)


def test_units_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="units=4 does not divide the 6"):
        V4D(ModelConfig(blocks_4d=(), **SMALL), 5)(torch.zeros(6, 3, 2, 32, 32), 4)


PLACES = {
    "none": (),
    "after the stem's stage": ("res2.1",),
    "the paper's": ("res3.1", "res4.1"),
    "next to each other": ("res3.0", "res3.1", "res4.0"),
    "the last": ("res5.1",),
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_the_parts_of_the_network_are_the_network(places):
    torch.manual_seed(0)
    model = V4D(ModelConfig(blocks_4d=places, norm_init_4d=1.0, **SMALL), 5).eval()
    x = torch.randint(0, 256, (8, 3, 2, 32, 32), dtype=torch.uint8)
    assert len(model.stages_4d) == len(places)
    in_order = [*model.layers_below]
    for block, layers in model.stages_4d:
        assert isinstance(block, InterUnitBlock)
        assert not any(isinstance(layer, InterUnitBlock) for layer in layers)
        in_order += [block, *layers]
    assert in_order == list(model.layers.values())
    y = model.forward_below(x)
    for block, layers in model.stages_4d:
        y = block(y, 4)
        for layer in layers:
            y = layer(y)
    assert torch.equal(model.forward_features(x, 4), y)
    video = model.pool(y, 4)
    torch.testing.assert_close(video, model.pool(y, 1).unflatten(0, (2, 4)).mean(dim=1))
    assert torch.equal(model(x, 4), model.classify(video))
    assert torch.equal(model(x, 4), model.forward_head(y, 4))


def test_the_names_of_weights():
    """Checkpoints and importers rely on them."""
    names = set(V4D(ModelConfig(**SMALL), 5).state_dict())
    expected = {
        "layers.stem.0.weight",
        "layers.res2_0.conv1.weight",
        "layers.res3_0.shortcut.0.weight",
        "layers.res3_1_4d.conv.weight",
        "layers.res3_1_4d.norm.weight",
        "layers.res5_1.norm2.running_mean",
        "classifier.weight",
        "classifier.bias",
    }
    assert expected <= names
    assert {name.split(".")[0] for name in names} == {"layers", "classifier"}


def test_compiles_without_a_graph_break_and_exports():
    torch.manual_seed(0)
    model = V4D(ModelConfig(norm_init_4d=1.0, **SMALL), 5).eval()
    x = torch.randint(0, 256, (8, 3, 2, 32, 32), dtype=torch.uint8)
    expected = model(x, 4)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x, 4), expected)
    torch.testing.assert_close(torch.export.export(model, (x, 4)).module()(x, 4), expected)


@pytest.mark.parametrize(
    ("shape", "units", "says"),
    [
        ((4, 3, 32, 32), 4, r"x has 4 dimensions, not the 5 of \(N, C, T, H, W\)"),
        ((4, 1, 2, 32, 32), 4, r"x is \(4, 1, 2, 32, 32\), not the \(N, 3, T, H, W\) of pixels"),
        ((4, 3, 2, 32, 32), 3, "units=3 does not divide the 4 units"),
        ((4, 3, 2, 32, 32), 0, "units=0 does not divide the 4 units"),
    ],
)
@pytest.mark.parametrize("kind", ["conv4d", "nonlocal"])
def test_what_is_no_video_is_refused(kind, shape, units, says):
    model = V4D(ModelConfig(block_4d=kind, **SMALL), 5)
    with pytest.raises(ValueError, match=says):
        model(torch.zeros(shape), units)


class _Layouts(TorchDispatchMode):
    """Notes, of each convolution and its backward, whether what it gets is channels-last, and copies of features."""

    def __init__(self, kernel_4d):
        super().__init__()
        self.kernel_4d = kernel_4d
        self.are_last, self.are_last_4d, self.copies = [], [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("convolution", "convolution_backward"):
            # The backward's first two are the gradient and the input.
            *given, weight = args[: 2 if name == "convolution" else 3]
            of = self.are_last_4d if tuple(weight.shape[2:]) == self.kernel_4d else self.are_last
            of.extend(x.is_contiguous(memory_format=torch.channels_last_3d) for x in given)
        if name in ("clone", "copy_", "contiguous") and result.ndim == 5 and len(result) == 8:
            self.copies += 1
        return result


@pytest.mark.parametrize("depth", [18, 50])
def test_a_training_step_stays_channels_last(depth):
    threads = torch.get_num_threads()
    # With one, torch has a convolution of its own for kernels of one pixel, which knows the default layout only.
    torch.set_num_threads(2)
    try:
        model = V4D(ModelConfig(depth=depth, norm_init_4d=1.0, base_width=8, dropout=0.0), 5)
        model = model.to(memory_format=torch.channels_last_3d)
        x = torch.randint(0, 256, (8, 3, 2, 64, 64), dtype=torch.uint8).contiguous(memory_format=torch.channels_last_3d)
        with _Layouts((3, 3, 1)) as seen:
            model(x, 4).square().sum().backward()
    finally:
        torch.set_num_threads(threads)
    for kind, are_last in ((torch.nn.Conv3d, seen.are_last), (Conv4d, seen.are_last_4d)):
        assert len(are_last) == 3 * sum(isinstance(module, kind) for module in model.modules())
    assert all(seen.are_last)
    # Of these the gradient is faster in the default layout on a CPU, to and from which they copy by themselves.
    assert not any(seen.are_last_4d)
    assert seen.copies == 0
