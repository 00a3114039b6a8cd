"""The networks: the paper's sizes, a fresh V4D is TSN, errors that name what does not fit."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from v4d.config import ModelConfig
from v4d.models.network import V4D

I3D_S, PAPERS_V4D = ModelConfig(blocks_4d=()), ModelConfig()
SMALL = {"base_width": 4, "dropout": 0.0}


# Table 2 of the paper, which counts a 1000-way classifier.
@pytest.mark.parametrize(("config", "millions"), [(I3D_S, 32.3), (PAPERS_V4D, 33.1)], ids=["I3D-S", "V4D"])
def test_parameters_are_the_papers(config, millions):
    parameters = sum(p.numel() for p in V4D(config, 1000).parameters())
    assert round(parameters / 1e6, 1) == millions


# The convolutions alone; with norms and activations the paper counts 55.1 and 58.8.
@pytest.mark.parametrize(("config", "billions"), [(I3D_S, 54.9), (PAPERS_V4D, 58.6)], ids=["I3D-S", "V4D"])
def test_multiply_adds_are_the_papers(config, billions):
    with torch.device("meta"):
        model, x = V4D(config, 1000), torch.empty(4, 3, 4, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(x, 4)
    assert round(counter.get_total_flops() / 2e9, 1) == billions


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
