"""Class activation maps: their mean is the logit less the bias, whatever blocks relate the units."""

import pytest
import torch
from torch import nn

from v4d.activation_maps import activation_maps
from v4d.config import ModelConfig
from v4d.inference import video_scores
from v4d.models.folding import fold_norms
from v4d.models.network import V4D

UNITS = 3
CONFIGS = {
    "tsn": {"blocks_4d": ()},
    "v4d": {"blocks_4d": ("res3.1", "res4.1")},
    "v4d_all_around": {"blocks_4d": ("res5.1",), "kernel_4d": (3, 3, 3, 3)},
    "v4d_bare": {"blocks_4d": ("res3.1", "res4.0"), "norm_4d": False},
    "nonlocal": {"blocks_4d": ("res4.1",), "block_4d": "nonlocal"},
    "cgnl": {"blocks_4d": ("res3.1",), "block_4d": "cgnl", "base_width": 16},
}


def network(classes=5, **config):
    """A network of random weights, statistics and biases, in which the 4D blocks do something."""
    torch.manual_seed(3)
    model = V4D(ModelConfig(**{"base_width": 8, **config}), classes)
    for name, weight in model.named_parameters():
        if "_4d" in name and weight.ndim > 1:
            nn.init.normal_(weight, std=0.05)
        elif "_4d" in name:
            nn.init.uniform_(weight, 0.5, 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
    nn.init.normal_(model.classifier.weight)
    nn.init.normal_(model.classifier.bias)
    return model.eval()


def pixels(videos=2, side=64, frames=4):
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (videos * UNITS, 3, frames, side, side), dtype=torch.uint8, generator=draws)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_mean_of_a_map_is_the_logit_less_the_bias(name):
    model, x = network(**CONFIGS[name]), pixels()
    for classes_B in (torch.tensor([4, 0]), torch.tensor([2, 2])):
        maps = activation_maps(model, x, UNITS, classes_B)
        assert maps.maps_BUTHW.shape == (2, UNITS, 4, 2, 2)
        logits_BK = model(x, UNITS)
        torch.testing.assert_close(maps.logits_BK, logits_BK, rtol=0, atol=1e-5)
        wanted_B = logits_BK[torch.arange(2), classes_B] - model.classifier.bias[classes_B]
        torch.testing.assert_close(maps.maps_BUTHW.mean(dim=(1, 2, 3, 4)), wanted_B, rtol=1e-4, atol=1e-4)
        assert maps.maps_BUTHW.flatten(1).std(dim=1).min() > 1e-3
    assert torch.equal(maps.classes_B, classes_B)


@torch.no_grad()
def test_by_default_it_is_the_top_class_of_algorithm_1_on_as_many_units():
    model, x = fold_norms(network(**CONFIGS["v4d"])), pixels()
    maps = activation_maps(model, x, UNITS)
    scores_BK = video_scores(model, x, UNITS, UNITS)
    assert torch.equal(maps.classes_B, scores_BK.argmax(dim=1))
    torch.testing.assert_close(maps.logits_BK.softmax(dim=1), scores_BK, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_unit_shows_in_the_maps_of_others_through_4d_blocks_alone():
    x = pixels(videos=1)
    for name, reaches in (("tsn", False), ("v4d", True)):
        model = network(**CONFIGS[name])
        before = activation_maps(model, x, UNITS, torch.tensor([1])).maps_BUTHW[0]
        changed = x.clone()
        changed[0] = 255 - changed[0]
        after = activation_maps(model, changed, UNITS, torch.tensor([1])).maps_BUTHW[0]
        assert not torch.allclose(before[0], after[0])
        assert torch.equal(before[1], after[1]) is not reaches


def test_what_cannot_be_mapped():
    model, x = network(), pixels()
    for classes_B in (torch.tensor([5, 0]), torch.tensor([-1, 0]), torch.tensor([0])):
        with pytest.raises(ValueError, match="classes_B must be one of 0 to 4 for each of 2 videos"):
            activation_maps(model, x, UNITS, classes_B)
    with pytest.raises(ValueError, match="units=4 does not divide"):
        activation_maps(model, x, 4)
    with pytest.raises(ValueError, match="training mode"):
        activation_maps(model.train(), x, UNITS)
