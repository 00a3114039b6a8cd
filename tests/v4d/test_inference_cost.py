"""What testing a video costs, against a count by hand and against what the networks themselves are seen to do."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from v4d.inference import video_scores
from v4d.inference_cost import inference_costs
from v4d.models.registry import create_model


def test_the_papers_network_with_ten_units():
    whole, written, distinct = inference_costs("v4d_resnet18")
    assert whole.unit_passes == (144, 144, 144)
    assert written.unit_passes == (10, 144, 144)
    assert distinct.unit_passes == (10, 42, 102)
    # In G for 4 frames at 256 pixels: a unit takes 5.18 below res4, 6.98 from there to res5 and in res5, 4D blocks
    # included. That of a block is done once for each of its places and units below it, and not for each unit above it.
    assert whole.multiply_adds / 1e9 == pytest.approx(144 * (5.18 + 6.98 + 6.98), rel=1e-3)
    assert written.multiply_adds / 1e9 == pytest.approx(10 * 5.18 + 144 * (6.98 + 6.98), rel=1e-3)
    assert distinct.multiply_adds / 1e9 == pytest.approx(
        10 * 5.18 + (10 * 0.604 + 42 * 6.375) + (42 * 0.604 + 102 * 6.375), rel=1e-3
    )


def test_weighted_passes_from_first_principles():
    """Neighbourhoods counted one by one, and multiply-adds layer by layer: those of a unit, relative to res3's end."""
    section_of = [int(4 * (unit + 0.5) / 10) for unit in range(10)]
    choices = itertools.product(*([unit for unit in range(10) if section_of[unit] == s] for s in range(4)))
    # What a unit's features depend on: after the block that ends res3 the units next to it, after res4's two to a side.
    seen = [set(), set()]
    passes = 0
    for choice in choices:
        passes += 4
        for section in range(4):
            for reach, neighbourhoods in enumerate(seen, 1):
                neighbourhoods.add((section, choice[max(0, section - reach) : section + reach + 1]))
    below = 112**2 * 3 * 64 * 49 + 4 * 56**2 * 9 * 64**2 + 28**2 * (9 * (64 * 128 + 3 * 128**2) + 64 * 128)
    res4 = 14**2 * (27 * (128 * 256 + 3 * 256**2) + 128 * 256)
    res5 = 7**2 * (27 * (256 * 512 + 3 * 512**2) + 256 * 512)
    assert res4 / below == res5 / below == pytest.approx(16 / 13)
    expected = {
        "whole network": passes + passes * res4 / below + passes * res5 / below,
        "as written": 10 + passes * res4 / below + passes * res5 / below,
        "distinct only": 10 + len(seen[0]) * res4 / below + len(seen[1]) * res5 / below,
    }
    found = {cost.way: cost.weighted_passes for cost in inference_costs("v4d_resnet18", units_infer=10)}
    assert found == pytest.approx(expected)
    assert [round(weighted) for weighted in found.values()] == [498, 364, 187]


def test_weights_are_shares_of_what_lies_below_the_first_block():
    """Which is res4 and all before it here, in 13 + 16 parts, with res5 above in 16."""
    *_, distinct = inference_costs("i3d_s_resnet18_plus_plus", units=4)
    assert distinct.unit_passes == (10, 10)
    assert distinct.weighted_passes == pytest.approx(10 + 10 * 16 / 29)


def test_it_is_what_the_network_does():
    (*_, distinct) = inference_costs("v4d_resnet18", classes=7, frames=1, crop=32, units_infer=6)
    model = create_model("v4d_resnet18", 7).eval()
    with FlopCounterMode(display=False) as counter:
        video_scores(model, torch.zeros(6, 3, 1, 32, 32), 6, 4)
    assert counter.get_total_flops() == 2 * distinct.multiply_adds


def test_without_blocks_that_relate_units_each_layer_sees_each_unit_once():
    whole, written, distinct = inference_costs("tsn_resnet18")
    assert (whole.unit_passes, written.unit_passes, distinct.unit_passes) == ((144,), (10,), (10,))
    assert (whole.weighted_passes, written.weighted_passes, distinct.weighted_passes) == (144, 10, 10)


def test_deep_networks_save_in_the_layers_between_their_first_blocks():
    *_, distinct = inference_costs("v4d_resnet50", frames=1, crop=32)
    assert distinct.unit_passes == (10, 42, 102, 144, 144, 144)
