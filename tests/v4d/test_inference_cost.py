"""What testing a video costs, against a count by hand and against what the networks themselves are seen to do."""

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


def test_it_is_what_the_network_does():
    (*_, distinct) = inference_costs("v4d_resnet18", classes=7, frames=1, crop=32, units_infer=6)
    model = create_model("v4d_resnet18", 7).eval()
    with FlopCounterMode(display=False) as counter:
        video_scores(model, torch.zeros(6, 3, 1, 32, 32), 6, 4)
    assert counter.get_total_flops() == 2 * distinct.multiply_adds


def test_without_blocks_that_relate_units_each_layer_sees_each_unit_once():
    whole, written, distinct = inference_costs("tsn_resnet18")
    assert (whole.unit_passes, written.unit_passes, distinct.unit_passes) == ((144,), (10,), (10,))


def test_deep_networks_save_in_the_layers_between_their_first_blocks():
    *_, distinct = inference_costs("v4d_resnet50", frames=1, crop=32)
    assert distinct.unit_passes == (10, 42, 102, 144, 144, 144)
