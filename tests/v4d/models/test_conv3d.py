"""Convolutions on a CPU in bfloat16: gradients are those of float32 but for rounding, however flat the input is."""

import pytest
import torch
import torch.nn.functional as F

from tests.v4d.synthetic import noise
from v4d.models.conv3d import conv3d
from v4d.models.conv4d import conv4d
from v4d.recipes.files import load_recipe
from v4d.step import Learner, build

# bfloat16 has 8 bits: the sums are in float32, and what goes into them and comes out is rounded to 1 / 256.
ROUNDING = 0.02


def gradients(convolve, x, weight):
    """Of what comes out times noise: by x, and by the weight."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = convolve(x, weight)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype))
    return y.detach(), x.grad, weight.grad


def assert_near(ours, theirs):
    for found, expected in zip(ours, theirs, strict=True):
        assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


def drawn(*shape, seed=0):
    """Numbers that bfloat16 has."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (2, 3), (3, 3), (2, 5), (3, 5), (4, 5), (6, 7)])
def test_a_kernel_deeper_than_its_input(depth, kernel, layout):
    x = drawn(2, 16, depth, 7, 6).to(memory_format=layout)
    weight = drawn(16, 16, kernel, 3, 3, seed=1)
    stride, padding = (1, 2, 2), (kernel // 2, 1, 1)

    def ours(x, weight):
        return conv3d(x, weight, None, stride, padding)

    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(ours, x, weight)
    assert found[0].dtype == torch.bfloat16
    expected = gradients(lambda x, weight: F.conv3d(x, weight, None, stride, padding), x, weight)
    assert_near(found, expected)
    of_its_own_type = gradients(ours, x.bfloat16(), weight.bfloat16())
    assert_near(of_its_own_type, expected)


@pytest.mark.parametrize("kernel", [(3, 3, 1, 1), (1, 3, 3, 3), (3, 3, 3, 3), (5, 3, 1, 1)])
@pytest.mark.parametrize(("units", "frames"), [(2, 2), (2, 4), (4, 2)])
def test_a_4d_kernel_over_few_units_and_frames(kernel, units, frames):
    x = drawn(2 * units, 8, frames, 4, 4).to(memory_format=torch.channels_last_3d)
    weight = drawn(8, 8, *kernel, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(lambda x, weight: conv4d(x, weight, units), x, weight)
    assert_near(found, gradients(lambda x, weight: conv4d(x, weight, units), x, weight))


@pytest.mark.parametrize(("units", "frames"), [(2, 2), (4, 4)])
def test_a_step_of_training(units, frames):
    """Of a whole network: the direction of each gradient, where rounding goes through all of its layers."""
    found = {}
    for precision in ("fp32", "bf16"):
        shape = (f"data.units={units}", f"data.frames={frames}", "data.train_crop=64", "train.global_batch=8")
        recipe = load_recipe("demo", (*shape, "model.base_width=8", f"train.precision={precision}"))
        model, optimizer = build(recipe, 5, torch.device("cpu"))
        batch = noise(recipe, videos=8)
        for module in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d)):
            module.eval()
        Learner(recipe, model, optimizer).step(batch, 0, 8)
        found[precision] = {name: parameter.grad.flatten() for name, parameter in model.named_parameters()}
    for name, expected in found["fp32"].items():
        assert F.cosine_similarity(found["bf16"][name], expected, dim=0) > 0.95, name
