"""The blocks that relate units, against plain computations of their formulas; fresh ones are the identity."""

import pytest
import torch

from v4d.models.conv4d import conv4d
from v4d.models.generalized_nonlocal import CompactGeneralizedNonLocalBlock
from v4d.models.nonlocal_block import NonLocalBlock
from v4d.models.residual_4d import Residual4dBlock

CHANNELS = 16
FRESH = {
    "conv4d": lambda: Residual4dBlock(CHANNELS, activation=False),
    "nonlocal": lambda: NonLocalBlock(CHANNELS),
    "cgnl": lambda: CompactGeneralizedNonLocalBlock(CHANNELS),
}
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
KINDS = pytest.mark.parametrize("kind", list(FRESH))


def features(videos=2, units=3, layout=torch.contiguous_format):
    torch.manual_seed(0)
    return torch.randn(videos * units, CHANNELS, 2, 3, 4).contiguous(memory_format=layout)


def trained(kind):
    """A block whose parameters are all drawn, as if it had learned something."""
    torch.manual_seed(1)
    block = FRESH[kind]()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block.eval()


def of_videos(x_NCTHW, units):
    """(B, C, P): all positions of a video in a row."""
    return x_NCTHW.unflatten(0, (-1, units)).transpose(1, 2).flatten(2)


def of_units(y_BCP, like, units):
    return y_BCP.unflatten(2, (units, *like.shape[2:])).transpose(1, 2).flatten(0, 1)


def pointwise(conv, x_BCP):
    return torch.einsum("dc,bcp->bdp", conv.weight.flatten(1), x_BCP)


@KINDS
@LAYOUTS
def test_a_fresh_block_is_the_identity_on_any_input(kind, layout):
    x = features(layout=layout)
    y = FRESH[kind]()(x, 3)
    assert torch.equal(y, x)
    assert y.stride() == x.stride()


def test_a_fresh_4d_block_with_activation_is_the_identity_on_what_a_relu_gives():
    x = features().relu()
    assert torch.equal(Residual4dBlock(CHANNELS)(x, 3), x)
    assert not torch.equal(Residual4dBlock(CHANNELS)(features(), 3), features())


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_4d_block_equals_its_formula(norm, activation):
    block, x = Residual4dBlock(CHANNELS, norm=norm, activation=activation).eval(), features().relu()
    assert torch.equal(block(x, 3), x)
    torch.nn.init.normal_(block.conv.weight)
    expected = conv4d(x, block.conv.weight, 3)
    if norm:
        torch.nn.init.normal_(block.norm.weight)
        expected = expected * block.norm.weight[:, None, None, None] / (1 + block.norm.eps) ** 0.5
    expected = x + expected
    assert expected.min() < 0
    torch.testing.assert_close(block(x, 3), expected.relu() if activation else expected, rtol=1e-4, atol=1e-4)


@LAYOUTS
@pytest.mark.parametrize("units", [1, 3])
def test_nonlocal_equals_softmax_over_all_pairs(units, layout):
    block, x = trained("nonlocal"), features(units=units, layout=layout)
    rows = of_videos(x, units)
    theta, phi, g = (pointwise(conv, rows) for conv in (block.theta, block.phi, block.g))
    pairs = torch.einsum("bdp,bdq->bpq", theta, phi) / (CHANNELS // 2) ** 0.5
    weights = pairs.exp() / pairs.exp().sum(dim=2, keepdim=True)
    mixed = pointwise(block.out, torch.einsum("bpq,bdq->bdp", weights, g))
    scale = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
    expected = x + of_units(mixed * scale[:, None] + block.norm.bias[:, None], x, units)
    torch.testing.assert_close(block(x, units), expected, rtol=1e-4, atol=1e-4)


@LAYOUTS
@pytest.mark.parametrize("units", [1, 3])
def test_generalized_nonlocal_equals_the_matrix_of_all_pairs_of_channels_and_positions(units, layout):
    block, x = trained("cgnl"), features(units=units, layout=layout)
    rows = of_videos(x, units)
    theta, phi, g = (
        pointwise(conv, rows).unflatten(1, (block.groups, -1)).flatten(2).double()
        for conv in (block.theta, block.phi, block.g)
    )
    pairs = torch.einsum("bgi,bgj->bgij", theta, phi)
    related = torch.einsum("bgij,bgj->bgi", pairs, g) / theta.shape[2]
    mixed = pointwise(block.out, related.reshape(rows.shape[0], CHANNELS // 2, -1).float())
    by_group = mixed.unflatten(1, (block.groups, -1)).flatten(2)
    spread = by_group.var(dim=2, correction=0, keepdim=True) + block.norm.eps
    normed = ((by_group - by_group.mean(dim=2, keepdim=True)) / spread.sqrt()).reshape(mixed.shape)
    expected = x + of_units(normed * block.norm.weight[:, None] + block.norm.bias[:, None], x, units)
    torch.testing.assert_close(block(x, units), expected, rtol=1e-4, atol=1e-4)


@KINDS
def test_gradients_reach_the_input_and_every_parameter(kind):
    block, x = trained(kind).train(), features().requires_grad_()
    (block(x, 3) * torch.randn(x.shape)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.abs().sum() > 1e-4, name
    assert x.grad.abs().min() > 0


@KINDS
def test_a_fresh_block_learns_from_its_first_step(kind):
    block, x = FRESH[kind](), features()
    (block(x, 3) * torch.randn(x.shape)).sum().backward()
    assert block.norm.weight.grad.abs().min() > 1e-4


@KINDS
def test_reach_is_how_far_a_unit_is_felt(kind):
    block, x = trained(kind), features(videos=2, units=7)
    changed = x.clone()
    changed[3] += 1.0
    felt = (block(x, 7) - block(changed, 7)).abs().amax(dim=(1, 2, 3, 4)) > 0
    reach = 7 if block.reach is None else block.reach
    assert felt[:7].tolist() == [abs(unit - 3) <= reach for unit in range(7)]
    assert not felt[7:].any()


@pytest.mark.parametrize(("kernel", "reach"), [((1, 3, 3, 3), 0), ((3, 3, 1, 1), 1), ((5, 1, 1, 1), 2)])
def test_reach_of_a_4d_block_is_half_its_extent(kernel, reach):
    assert Residual4dBlock(CHANNELS, kernel).reach == reach


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(kind, dtype):
    block, x = trained(kind), features()
    with torch.autocast("cpu", dtype):
        y = block(x, 3)
    exact = block(x, 3)
    assert (y.float() - exact).abs().max() < 0.03 * (exact - x).abs().max()


@KINDS
def test_compiles_without_a_graph_break(kind):
    block, x = trained(kind), features()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 3), block(x, 3))


@KINDS
def test_units_that_do_not_divide_are_refused(kind):
    with pytest.raises(ValueError, match="units=4 does not divide the 6"):
        FRESH[kind]()(features(), 4)


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="must be even, not 7"):
        NonLocalBlock(7)
    with pytest.raises(ValueError, match="groups=8 does not divide half of channels=24"):
        CompactGeneralizedNonLocalBlock(24)
