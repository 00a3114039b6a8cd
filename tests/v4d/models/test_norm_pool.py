"""The joined norm and pool against torch's own: on a GPU, and where there is none in Triton's interpreter."""

import copy
import itertools
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def norm_of(channels):
    norm = nn.BatchNorm3d(channels).to(DEVICE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


def pixels(frames, channels, height, width, dtype=torch.float, mean=1.0):
    x = torch.randn(frames, height, width, channels, generator=torch.Generator().manual_seed(0)) * 2 + mean
    return x.to(DEVICE, dtype).permute(0, 3, 1, 2).requires_grad_()


def plain(x, norm):
    return F.relu(F.max_pool2d(norm(x.unsqueeze(2)).squeeze(2), 3, stride=2, padding=1))


def assert_alike(x, norm, **near):
    from v4d.models.norm_pool import norm_pool

    exact = copy.deepcopy(norm).double()
    x_exact = x.detach().double().requires_grad_()
    found, expected = norm_pool(x, norm), plain(x_exact, exact)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    found.backward(upstream.to(found.dtype))
    expected.backward(upstream.to(found.dtype).double())
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == x.grad.dtype == x.dtype
    torch.testing.assert_close(found.double(), expected, **near)
    torch.testing.assert_close(x.grad.double(), x_exact.grad, **near)
    torch.testing.assert_close(norm.weight.grad.double(), exact.weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.bias.grad.double(), exact.bias.grad, rtol=1e-3, atol=1e-4)
    for name, value in exact.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name].double(), value.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "channels"), list(itertools.product((2, 7, 10), (9, 36), (3, 16))))
def test_values_gradients_and_statistics_are_those_of_torch(height, width, channels):
    assert_alike(pixels(3, channels, height, width), norm_of(channels), rtol=1e-5, atol=1e-5)


def test_in_bfloat16():
    assert_alike(pixels(2, 8, 9, 12, torch.bfloat16), norm_of(8), rtol=2e-2, atol=4e-2)


def test_a_mean_far_from_zero_costs_no_precision():
    assert_alike(pixels(8, 4, 16, 16, mean=3000.0), norm_of(4), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 1.0])
def test_running_statistics_go_on_as_torchs(momentum, counted):
    from v4d.models.norm_pool import norm_pool

    norm = norm_of(4)
    norm.momentum = momentum
    if not counted:
        norm.num_batches_tracked = None
    expected = copy.deepcopy(norm)
    for number in range(3):
        x = pixels(2, 4, 6, 6, mean=float(number)).detach()
        norm_pool(x, norm)
        plain(x, expected)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)


def test_what_is_not_a_number_is_seen():
    from v4d.models.norm_pool import norm_pool

    x = pixels(1, 2, 6, 6).detach()
    x[0, 1, 2, 3] = torch.nan
    found = norm_pool(x, norm_of(2))
    assert found[0, 0].isfinite().all()
    assert found[0, 1].isnan().all()


def test_its_operators_are_sound():
    from v4d.models import norm_pool

    x, norm = pixels(2, 4, 5, 6), norm_of(4)
    torch.library.opcheck(norm_pool._forward, (x, norm.weight, norm.bias, norm.eps))


def test_it_stands_for_a_norm_of_its_own_in_training_on_a_gpu_alone():
    from v4d.models.norm_pool import can_join

    on_gpu = torch.empty(1, 3, 2, 2, device="meta") if DEVICE == "cpu" else pixels(1, 3, 2, 2)
    assert not can_join(torch.empty(1, 3, 2, 2), norm_of(3))
    assert not can_join(on_gpu, norm_of(3).eval())
    assert not can_join(on_gpu, nn.SyncBatchNorm(3))
    assert not can_join(on_gpu, norm_of(3).to(torch.bfloat16))
    assert not can_join(on_gpu.double(), norm_of(3))
    assert can_join(on_gpu, norm_of(3)) == on_gpu.is_cuda
