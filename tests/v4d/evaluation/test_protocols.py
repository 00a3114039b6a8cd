"""Protocols against the network called video by video, unit by unit; crops; and orders of frames and units."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines import EvalLoader, Sampling
from preprocess.errors import UsageError
from v4d.checkpoint import find_checkpoint
from v4d.config import DataConfig
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scoring import scored_batches
from v4d.trained import load_run

CPU = torch.device("cpu")


@pytest.fixture
def network(run):
    """The run's network, in eval mode, and its recipe."""
    trained = load_run(find_checkpoint(run))
    return trained.model.eval(), trained.recipe


@pytest.fixture
def without_4d(network):
    """The same, whose 4D blocks add nothing."""
    model, recipe = network
    for name, parameter in model.named_parameters():
        if "_4d" in name:
            torch.nn.init.zeros_(parameter)
    assert any("_4d" in name for name, _ in model.named_parameters())
    return model, recipe


def batches_of(dataset, recipe, protocol, batch=4, split="val"):
    take = protocol.sampling(recipe.data)
    return EvalLoader(dataset, split, take, global_batch=batch, device=CPU, crops=protocol.places)


def scored(network, dataset, protocol, scores=None, batch=4, flip=None):
    """The scores of all of the split's videos, (N, K)."""
    model, recipe = network
    loader = batches_of(dataset, recipe, protocol, batch)
    parts = [
        scores_BK[taken.mask_B] for taken, scores_BK in scored_batches(model, loader, recipe, protocol, scores, flip)
    ]
    return torch.cat(parts)


@torch.no_grad()
def by_hand(network, dataset, protocol, score):
    """What ``score`` makes of each crop of each video, (U, C, T, H, W), a mean over crops."""
    _, recipe = network
    loader = batches_of(dataset, recipe, protocol, batch=1)
    return torch.stack([torch.stack([score(crop) for crop in one.crops]).mean(dim=0) for one in loader])


def test_tsn_is_the_mean_of_the_units_logits(network, dataset):
    protocol = Protocol("tsn", 5)
    model, _ = network

    def score(x):
        return torch.stack([model(unit[None], 1)[0] for unit in x]).mean(dim=0).softmax(dim=0)

    found = scored(network, dataset, protocol)
    torch.testing.assert_close(found, by_hand(network, dataset, protocol, score), rtol=0, atol=1e-5)
    # The 4D blocks see no other unit.
    assert (found - scored(network, dataset, Protocol("v4d", 5))).abs().max() > 1e-3


@pytest.mark.parametrize(("units", "scores"), [(4, "softmax"), (4, "sigmoid"), (8, "logits"), (12, "logits")])
def test_with_4d_blocks_at_zero_v4d_and_tsn_agree(units, scores, without_4d, dataset):
    tsn, v4d = (scored(without_4d, dataset, Protocol(kind, units), scores) for kind in ("tsn", "v4d"))
    torch.testing.assert_close(tsn, v4d, rtol=0, atol=1e-5)
    assert tsn.std(dim=0).min() > 1e-4


def test_with_4d_blocks_they_do_not_agree(network, dataset):
    tsn, v4d = (scored(network, dataset, Protocol(kind, 4)) for kind in ("tsn", "v4d"))
    assert (tsn - v4d).abs().max() > 1e-3


def test_dense_is_the_mean_of_clips_of_all_units(network, dataset):
    protocol = Protocol("dense", clips=3)
    model, recipe = network
    assert recipe.data.units == 4

    def score(x):
        return torch.stack([model(clip, 4)[0].softmax(dim=0) for clip in x.split(4)]).mean(dim=0)

    expected = by_hand(network, dataset, protocol, score)
    for batch in (1, 5):
        torch.testing.assert_close(scored(network, dataset, protocol, batch=batch), expected, rtol=0, atol=1e-5)


def test_clips_of_dense_lie_from_the_videos_start_to_its_end():
    data = DataConfig(units=2, frames=3, stride=5)
    take = Protocol("dense", clips=3).sampling(data)
    assert (take.units, take.clips, take.frames, take.stride) == (6, 3, 3, 5)


def test_of_one_unit_dense_is_the_test_of_clips(network, dataset):
    """10 clips × 3 crops, as of I3D: each clip alone through the network."""
    model, recipe = network
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"units": 1})})
    protocol = Protocol("dense", clips=10)

    def score(x):
        assert len(x) == 10
        return torch.stack([model(clip[None], 1)[0].softmax(dim=0) for clip in x]).mean(dim=0)

    expected = by_hand((model, recipe), dataset, protocol, score)
    torch.testing.assert_close(scored((model, recipe), dataset, protocol), expected, rtol=0, atol=1e-5)


def test_ten_crops_are_five_and_their_mirror_images(network, dataset):
    protocol = Protocol("v4d", 4, crops=10)
    model, _ = network
    # Class 0 becomes 2 and 2 becomes 0, class 4 becomes none that there is.
    flip = {0: 2, 2: 0, 4: -1}

    def score(x):
        plain, mirrored = (model(torch.flip(of, dims=[4]) if is_flipped else of, 4)[0].softmax(dim=0)
                           for of, is_flipped in ((x, False), (x, True)))  # fmt: skip
        swapped = mirrored.clone()
        swapped[0], swapped[2], swapped[4] = mirrored[2], mirrored[0], plain[4]
        return (plain + swapped) / 2

    expected = by_hand(network, dataset, protocol, score)
    found = scored(network, dataset, protocol, flip=flip)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - scored(network, dataset, protocol)).abs().max() > 1e-3


def test_the_number_of_crops(dataset):
    for crops, cut in ((1, 1), (3, 3), (10, 5)):
        protocol = Protocol(crops=crops)
        (first, *_) = EvalLoader(
            dataset, "val", Sampling(2, 2, 3, 32), global_batch=2, device=CPU, crops=protocol.places
        )
        assert len(first.crops) == cut
        assert {crop.shape for crop in first.crops} == {(4, 3, 2, 32, 32)}
        assert len({crop.numpy().tobytes() for crop in first.crops}) == cut
        assert protocol.about(cut)["crops"] == crops


def coded(videos=3, units=4, frames=3):
    """(B·U, 1, T, 1, 1), whose values are 100·video + 10·unit + frame."""
    number = np.arange(videos)[:, None, None] * 100 + np.arange(units)[:, None] * 10 + np.arange(frames)
    return torch.from_numpy(number).reshape(videos * units, 1, frames, 1, 1)


def order_of(x, units=4):
    return x.reshape(-1, units, x.shape[2]).tolist()


@pytest.mark.parametrize(
    ("reverse", "expected"),
    [
        ("frames", [[102, 101, 100], [112, 111, 110], [122, 121, 120], [132, 131, 130]]),
        ("units", [[130, 131, 132], [120, 121, 122], [110, 111, 112], [100, 101, 102]]),
        ("both", [[132, 131, 130], [122, 121, 120], [112, 111, 110], [102, 101, 100]]),
    ],
)
def test_what_is_reversed(reverse, expected):
    turned = Protocol(units_infer=4, reverse=reverse).in_order(coded(), ("a", "b", "c"), 2)
    assert order_of(turned)[1] == expected


def test_in_dense_the_units_of_each_clip_are_reversed():
    turned = Protocol("dense", clips=2, reverse="units").in_order(coded(), ("a", "b", "c"), 2)
    assert [unit[0] for unit in order_of(turned)[0]] == [10, 0, 30, 20]


def test_an_order_is_drawn_of_the_key_and_the_seed_alone():
    protocol = Protocol(units_infer=8, shuffle="units")

    def drawn(keys, **changes):
        x = coded(len(keys), units=8)
        return [
            [unit[0] // 10 % 10 for unit in video]
            for video in order_of(replace(protocol, **changes).in_order(x, keys, 4), 8)
        ]

    keys = ("a", "b", "ü/c\n", "")
    together = drawn(keys)
    assert all(sorted(order) == [*range(8)] for order in together)
    assert len({tuple(order) for order in together}) == 4
    assert [order for key in keys for order in drawn((key,))] == together
    assert drawn(keys, shuffle_seed=1) != together
    frames = protocol.in_order(coded(1, units=8), ("a",), 4)
    assert [[value % 10 for value in unit] for unit in order_of(frames, 8)[0]] == [[0, 1, 2]] * 8


def test_the_order_changes_what_a_4d_network_says(network, without_4d, dataset):
    """Without 4D blocks the order of units is nothing to it, and that of frames is."""
    plain = Protocol(units_infer=4)
    before = scored(without_4d, dataset, plain)
    for changes in ({"reverse": "units"}, {"shuffle": "units"}):
        torch.testing.assert_close(scored(without_4d, dataset, replace(plain, **changes)), before, rtol=0, atol=1e-5)
    assert (scored(without_4d, dataset, replace(plain, reverse="frames")) - before).abs().max() > 1e-3


def test_the_order_of_units_changes_what_4d_blocks_say(network, dataset):
    plain = Protocol(units_infer=4)
    before = scored(network, dataset, plain)
    for changes in ({"reverse": "units"}, {"shuffle": "units"}, {"reverse": "both"}):
        assert (scored(network, dataset, replace(plain, **changes)) - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (Protocol(), "u10"),
        (Protocol("tsn", 25, crops=1), "tsn-u25-crops1"),
        (Protocol("dense", clips=5, crops=10), "dense-c5-crops10"),
        (Protocol(reverse="both"), "u10-reverse-both"),
        (Protocol(shuffle="units"), "u10-shuffle-units"),
        (Protocol(reverse="frames", shuffle="units", shuffle_seed=7), "u10-reverse-frames-shuffle-units-7"),
    ],
)
def test_a_name_says_what_is_not_the_default(protocol, name):
    assert protocol.name == name


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="--u-infer 64 with 8 units in training makes 16,777,216 combinations"):
        Protocol(units_infer=64).check(DataConfig(units=8))
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4"):
        Protocol(units_infer=3).check(DataConfig())
    Protocol("tsn", 1).check(DataConfig())
    Protocol("dense", units_infer=1).check(DataConfig())
    for reverse in ("units", "both"):
        with pytest.raises(UsageError, match=f"leaves nothing of --reverse {reverse}"):
            Protocol(reverse=reverse, shuffle="units").check(DataConfig())
