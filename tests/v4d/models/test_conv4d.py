"""conv4d against equation 1 of the paper, written as loops in float64; and that it copies nothing."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from v4d.models.conv4d import Conv4d, _form, _in_parts, _of_each_unit, _on_a_view, _stacked, conv4d
from v4d.models.units import units_as_batch, units_as_depth

KERNELS = [
    (3, 1, 1, 1),
    (3, 3, 1, 1),
    (3, 3, 3, 3),
    (1, 1, 1, 1),
    (5, 3, 1, 1),
    (1, 3, 3, 1),
    (3, 1, 1, 3),
    (1, 3, 3, 3),
    (5, 5, 3, 3),
]


def by_the_paper(x_NCTHW, weight, units):
    """o_jutHW = sum over c, s, p, q, r of W_jc,spqr · v_c,(u+s)(t+p)(h+q)(w+r), zeros outside."""
    k_U, k_T, k_H, k_W = weight.shape[2:]
    x = x_NCTHW.unflatten(0, (-1, units)).double()
    videos, _, _, frames, height, width = x.shape
    pads = [(k - 1) // 2 for k in (k_W, k_H, k_T)]
    padded = F.pad(x, (*(p for pad in pads for p in (pad, pad)), 0, 0, (k_U - 1) // 2, (k_U - 1) // 2))
    out = torch.zeros(videos, units, weight.shape[0], frames, height, width, dtype=torch.float64)
    for s, p, q, r in itertools.product(range(k_U), range(k_T), range(k_H), range(k_W)):
        window = padded[:, s : s + units, :, p : p + frames, q : q + height, r : r + width]
        out += torch.einsum("bucthw,jc->bujthw", window, weight[:, :, s, p, q, r].double())
    return out.flatten(0, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("kernel", "units", "videos"), list(itertools.product(KERNELS, [1, 2, 4, 7], [1, 2])))
def test_equals_the_paper(kernel, units, videos, layout):
    torch.manual_seed(0)
    x = torch.randn(videos * units, 3, 4, 5, 6).contiguous(memory_format=layout)
    weight = torch.randn(5, 3, *kernel)
    torch.testing.assert_close(conv4d(x, weight, units).double(), by_the_paper(x, weight, units), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("units", "videos"), [(1, 2), (2, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3), (1, 3, 3, 3), (5, 1, 1, 1)])
def test_gradients(kernel, units, videos):
    torch.manual_seed(0)
    x = torch.randn(videos * units, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, *kernel, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: conv4d(x, w, units), (x, weight))


# Every form with the kernels that it can do.
FORMS = [
    *((_of_each_unit, kernel) for kernel in [(1, 3, 3, 1), (1, 3, 3, 3), (1, 1, 1, 1)]),
    *((_on_a_view, kernel) for kernel in [(3, 1, 1, 1), (3, 3, 1, 1), (5, 3, 1, 1), (1, 3, 1, 1)]),
    *((_in_parts, kernel) for kernel in [(3, 1, 1, 1), (3, 3, 1, 1), (5, 3, 1, 1), (1, 3, 1, 1)]),
    *((_stacked, kernel) for kernel in [(3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3), (5, 1, 3, 1), (1, 3, 3, 3)]),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("units", "videos", "frames"), [(1, 1, 1), (1, 3, 2), (2, 1, 5), (4, 1, 4), (4, 2, 3), (7, 1, 1)]
)
@pytest.mark.parametrize(("form", "kernel"), FORMS)
def test_each_form_and_its_gradients_equal_the_paper(form, kernel, units, videos, frames, layout):
    torch.manual_seed(0)
    # Of positions: one, less than there are parts, as many in each part, and not as many.
    for size in [(1, 1), (1, 3), (4, 6), (7, 7)]:
        x = torch.randn(videos * units, 3, frames, *size, dtype=torch.float64).contiguous(memory_format=layout)
        weight = torch.randn(5, 3, *kernel, dtype=torch.float64)
        bias = torch.randn(5, dtype=torch.float64)
        inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
        expected = by_the_paper(x, weight, units) + bias.view(-1, 1, 1, 1)
        y = form(x, weight, units, bias)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
        towards = torch.randn_like(expected)
        found, wanted = (torch.autograd.grad(of, inputs, towards) for of in (y, expected))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        (_in_parts, {}),
        (_in_parts, {"learns": False, "videos": 1}),
        (_on_a_view, {"learns": False}),
        (_on_a_view, {"dtype": torch.bfloat16, "videos": 1}),
        (_on_a_view, {"autocast": True}),
        (_on_a_view, {"device": "meta", "videos": 1}),
        (_stacked, {"kernel": (3, 1, 1, 3)}),
        (_of_each_unit, {"kernel": (1, 3, 3, 3)}),
    ],
)
def test_the_form_goes_by_device_videos_and_whether_it_learns(form, changes):
    """Any device but a CPU, as "meta" is, is as a GPU."""
    asked = {"device": "cpu", "dtype": torch.float32, "videos": 2, "learns": True, "autocast": False}
    asked |= {"kernel": (3, 3, 1, 1), **changes}
    x = torch.randn(4 * asked["videos"], 3, 2, 5, 5, device=asked["device"], dtype=asked["dtype"])
    weight = torch.nn.Parameter(torch.randn(3, 3, *asked["kernel"], device=asked["device"], dtype=asked["dtype"]))
    with torch.set_grad_enabled(asked["learns"]), torch.autocast("cpu", enabled=asked["autocast"]):
        assert _form(x, weight, 4) is form


def test_the_views_copy_nothing():
    x = torch.randn(8, 16, 4, 7, 7).contiguous(memory_format=torch.channels_last_3d)
    seen = units_as_depth(x, 4)
    assert seen.data_ptr() == x.data_ptr()
    assert seen.is_contiguous(memory_format=torch.channels_last_3d)
    back = units_as_batch(seen, x.shape[-2:])
    assert back.data_ptr() == x.data_ptr()
    assert back.stride() == x.stride()
    assert torch.equal(back, x)


def test_channels_last_stays_channels_last():
    x = torch.randn(8, 16, 4, 7, 7).contiguous(memory_format=torch.channels_last_3d)
    for kernel in KERNELS:
        y = Conv4d(16, 16, kernel)(x, 4)
        assert y.is_contiguous(memory_format=torch.channels_last_3d), kernel


def test_a_kernel_over_units_is_a_dilated_3d_convolution_over_the_concatenated_units():
    """Section 3.5: with T frames of a unit, k×1×1×1 is k×1×1 with dilation T."""
    torch.manual_seed(0)
    units, frames = 5, 4
    x = torch.randn(2 * units, 3, frames, 5, 6)
    weight = torch.randn(7, 3, 3, 1, 1, 1)
    in_a_row = x.unflatten(0, (2, units)).transpose(1, 2).flatten(2, 3)
    expected = F.conv3d(in_a_row, weight[:, :, :, 0], padding=(frames, 0, 0), dilation=(frames, 1, 1))
    expected = expected.unflatten(2, (units, frames)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(conv4d(x, weight, units), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3)])
def test_autocast(kernel, dtype):
    torch.manual_seed(0)
    x = torch.randn(8, 4, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    layer = Conv4d(4, 4, kernel)
    with torch.autocast("cpu", dtype):
        y = layer(x, 4)
    assert y.dtype == dtype
    # What rounding to the dtype does to sums of k^4·C products of size about 1 and less.
    torch.testing.assert_close(y.float(), layer(x, 4), rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().min() > 0


@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3)])
def test_compiles_without_a_graph_break_and_exports(kernel):
    torch.manual_seed(0)
    x = torch.randn(8, 4, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    layer = Conv4d(4, 4, kernel)
    expected = layer(x, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 4), expected)
    torch.testing.assert_close(torch.export.export(layer, (x, 4)).module()(x, 4), expected)


@pytest.mark.parametrize(
    ("x", "weight", "units", "says"),
    [
        ((6, 3, 4, 5, 5), (3, 3, 3, 3, 1, 1), 4, "units=4 does not divide the 6"),
        ((8, 3, 4, 5, 5), (3, 2, 3, 3, 1, 1), 4, "x has 3 channels, weight is for 2"),
        ((8, 3, 4, 5, 5), (3, 3, 2, 3, 1, 1), 4, r"odd, not \(2, 3, 1, 1\)"),
        ((8, 3, 5, 5), (3, 3, 3, 3, 1, 1), 4, "5 dimensions and weight of 6, not 4 and 6"),
    ],
)
def test_what_does_not_fit_is_refused(x, weight, units, says):
    with pytest.raises(ValueError, match=says):
        conv4d(torch.randn(x), torch.randn(weight), units)


class _Copies(TorchDispatchMode):
    """Notes what copies as much as the input, and the layout that convolutions get."""

    def __init__(self, size):
        super().__init__()
        self.size, self.copies, self.layouts = size, [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        copies = name in ("clone", "copy_", "_to_copy", "contiguous", "cat", "constant_pad_nd")
        # Not those of weights.
        if copies and result.numel() >= self.size:
            self.copies.append(name)
        if name == "convolution":
            self.layouts.append(args[0].is_contiguous(memory_format=torch.channels_last_3d))
        return result


@pytest.fixture
def two_threads():
    """With one, torch has a convolution of its own for kernels of one pixel, which knows the default layout only."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (3, 3, 1, 1), (5, 3, 1, 1), (1, 3, 3, 3)])
@torch.no_grad()
def test_nothing_is_copied(kernel):
    x = torch.randn(8, 16, 4, 7, 7).contiguous(memory_format=torch.channels_last_3d)
    with _Copies(x.numel()) as seen:
        conv4d(x, torch.randn(16, 16, *kernel), 4)
    assert seen.copies == []
    assert seen.layouts == [True]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("form", "kernel"),
    [(_on_a_view, (3, 1, 1, 1)), (_on_a_view, (3, 3, 1, 1)), (_on_a_view, (5, 3, 1, 1)), (_of_each_unit, (1, 3, 3, 3))],
)
def test_nothing_is_copied_for_gradients(form, kernel):
    """As it is on a GPU; on a CPU copies are faster."""
    x = torch.randn(8, 16, 4, 7, 7).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = torch.randn(16, 16, *kernel, requires_grad=True)
    with _Copies(x.numel()) as seen:
        y = form(x, weight, 4, None)
        y.backward(y.detach())
    assert seen.copies == []
    assert seen.layouts == [True]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("kernel", [(3, 3, 3, 3), (3, 1, 1, 3)])
def test_what_is_stacked_is_copied_once_and_stays_channels_last(kernel):
    x = torch.randn(8, 16, 4, 7, 7).contiguous(memory_format=torch.channels_last_3d)
    with _Copies(x.numel()) as seen:
        y = conv4d(x, torch.randn(16, 16, *kernel), 4)
    assert seen.copies == ["constant_pad_nd", "cat"]
    assert seen.layouts == [True]
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("size", "copies"), [((8, 8), ["clone"] * 2), ((7, 7), ["constant_pad_nd", *["clone"] * 3])])
def test_what_is_in_parts_is_copied_there_and_back(size, copies):
    """To the default layout and back to that of the input; where positions do not divide evenly also padded and cut."""
    x = torch.randn(8, 16, 4, *size).contiguous(memory_format=torch.channels_last_3d)
    with _Copies(x.numel()) as seen:
        y = conv4d(x, torch.randn(16, 16, 3, 3, 1, 1), 8)
    assert seen.copies == copies
    assert seen.layouts == [False]
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_bias():
    x, weight, bias = torch.randn(8, 3, 4, 5, 6), torch.randn(5, 3, 3, 3, 1, 1), torch.randn(5)
    expected = conv4d(x, weight, 4) + bias.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(conv4d(x, weight, 4, bias), expected)
    with pytest.raises(ValueError, match=r"bias is of shape \(4,\), weight gives 5 channels"):
        conv4d(x, weight, 4, bias[:4])
