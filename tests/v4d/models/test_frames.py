"""Layers that see each frame by itself, and the stem: their outputs are those of the plain layers in 3D."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from v4d.models.frames import FrameConv, frames_as_batch, frames_as_units, max_pool_frames
from v4d.models.stem import Stem

LAST = torch.channels_last_3d
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def units(*shape, device="cpu", dtype=torch.double):
    return torch.randn(shape, dtype=dtype, device=device, generator=torch.Generator(device).manual_seed(0))


def test_frames_are_views_and_come_back():
    x = units(4, 5, 3, 6, 7).contiguous(memory_format=LAST)
    frames = frames_as_batch(x)
    assert frames.data_ptr() == x.data_ptr()
    assert torch.equal(frames[5], x[1, :, 2])
    back = frames_as_units(frames, 4)
    assert back.data_ptr() == x.data_ptr()
    assert back.is_contiguous(memory_format=LAST)
    assert torch.equal(back, x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_frames_are_pooled_as_units_are(layout):
    x = units(4, 4, 3, 17, 22).contiguous(memory_format=layout)
    found = max_pool_frames(x)
    assert torch.equal(found, F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("side", "stride"), list(itertools.product((1, 3), (1, 2))))
def test_a_convolution_of_frames_is_the_one_of_units(device, side, stride):
    conv = FrameConv(4, 6, (1, side, side), stride=(1, stride, stride), padding=(0, side // 2, side // 2)).double()
    conv = conv.to(device, memory_format=LAST)
    x = units(4, 4, 3, 9, 8, device=device).contiguous(memory_format=LAST)
    expected = F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    torch.testing.assert_close(conv(x), expected)
    assert device == "cpu" or conv(x).is_contiguous(memory_format=LAST)


@pytest.mark.parametrize(("height", "width"), list(itertools.product((1, 2, 8, 9, 31), (7, 12))))
def test_pixels_by_blocks_of_four_are_convolved_as_they_are(height, width):
    conv = Stem(5)[0].double()
    frames = units(3, 3, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    found, expected = conv.by_blocks(frames), F.conv2d(frames, conv.weight.squeeze(2), None, 2, 3)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    inputs = (frames, conv.weight)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("train", [True, False])
def test_the_stem_is_convolution_norm_relu_and_pool(device, layout, train):
    stem = Stem(6).to(device, memory_format=layout).train(train)
    conv, norm = stem
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0, -0.3]))
        norm.bias.copy_(torch.tensor([0.1, 0.5, -0.2, 0.0, 0.3, 0.0]))
    x = units(4, 3, 2, 21, 18, device=device, dtype=torch.float).contiguous(memory_format=layout)
    plain = nn.BatchNorm3d(6).to(device).train(train)
    plain.load_state_dict(norm.state_dict())
    y = F.conv3d(x.double(), conv.weight.double(), None, (1, 2, 2), (0, 3, 3))
    expected = F.max_pool3d(F.relu(plain.double()(y)), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    # A GPU convolves float32 in TF32.
    near = {"rtol": 1e-3, "atol": 2e-3} if device == "cuda" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(stem(x).double(), expected, **near)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name].double(), value.double(), **near)
