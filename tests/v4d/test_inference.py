"""Fast inference against Algorithm 1 as written, and against the whole network on every combination."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.errors import UsageError
from v4d.config import ModelConfig
from v4d.inference import video_scores
from v4d.models.network import V4D
from v4d.neighbourhoods import sections

ACTIVATIONS = {"softmax": lambda y: y.softmax(dim=1), "sigmoid": torch.sigmoid, "logits": lambda y: y}


def choices(infer, train):
    return [list(choice) for choice in itertools.product(*sections(infer, train))]


@torch.no_grad()
def on_every_combination(model, x_NCTHW, infer, train, activation="softmax"):
    """The whole network, as it is trained, on each combination."""
    of_video = x_NCTHW.unflatten(0, (-1, infer))
    every = [model(of_video[:, choice].flatten(0, 1), train) for choice in choices(infer, train)]
    return torch.stack([ACTIVATIONS[activation](logits) for logits in every]).mean(dim=0)


@torch.no_grad()
def as_written(model, x_NCTHW, infer, train):
    """Algorithm 1: N3D once per unit, N4D on every combination."""
    below = model.forward_below(x_NCTHW).unflatten(0, (-1, infer))
    scores = []
    for choice in choices(infer, train):
        above = model.forward_above(below[:, choice].flatten(0, 1), train)
        scores.append(model.forward_head(above, train).softmax(dim=1))
    return torch.stack(scores).mean(dim=0)


def network(seed=0, **changes):
    """A small network whose norms have statistics of their own, and whose 4D blocks matter."""
    torch.manual_seed(seed)
    config = {"base_width": 4, "dropout": 0.5, "norm_init_4d": 1.0, **changes}
    model = V4D(ModelConfig(**config), 5).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(model.classifier.weight)
    return model


def pixels(units, frames=2, side=32):
    x = torch.randint(0, 256, (units, 3, frames, side, side), dtype=torch.uint8)
    return x.contiguous(memory_format=torch.channels_last_3d)


NETWORKS = {
    "the paper's": {},
    "TSN": {"blocks_4d": ()},
    "one early": {"blocks_4d": ("res2.0",)},
    "one late": {"blocks_4d": ("res5.1",)},
    "three": {"blocks_4d": ("res2.1", "res3.0", "res4.0")},
    "after each": {"blocks_4d": tuple(f"res{i}.{j}" for i in (2, 3, 4, 5) for j in (0, 1))},
    "k=5": {"kernel_4d": (5, 1, 1, 1)},
    "k=7": {"kernel_4d": (7, 3, 1, 1)},
    "one unit wide": {"kernel_4d": (1, 3, 3, 3)},
    "all of 3": {"kernel_4d": (3, 3, 3, 3)},
    "non-local": {"block_4d": "nonlocal", "blocks_4d": ("res4.0", "res4.1")},
    "compact non-local": {"base_width": 16, "block_4d": "cgnl", "blocks_4d": ("res3.1", "res4.1")},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("infer", "train"), [(4, 4), (5, 4), (6, 3), (3, 1), (8, 2)])
def test_equals_the_whole_network_on_every_combination(name, infer, train):
    model, x = network(**NETWORKS[name]), pixels(2 * infer)
    found = video_scores(model, x, infer, train)
    torch.testing.assert_close(found, on_every_combination(model, x, infer, train), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, as_written(model, x, infer, train), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


@settings(max_examples=25)
@given(
    train=st.integers(1, 6),
    more=st.integers(0, 4),
    videos=st.integers(1, 3),
    places=st.sets(st.sampled_from([f"res{i}.{j}" for i in (2, 3, 4, 5) for j in (0, 1)])),
    kernel=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3])),
    activation=st.sampled_from(["softmax", "sigmoid", "logits"]),
    most_bytes=st.sampled_from([0, 10**5, 10**6, None]),
    seed=st.integers(0, 99),
)
def test_any_network_any_units_any_memory(train, more, videos, places, kernel, activation, most_bytes, seed):
    model = network(seed, blocks_4d=tuple(places), kernel_4d=(*kernel, 1, 1))
    x = pixels(videos * (train + more), frames=1)
    found = video_scores(model, x, train + more, train, activation=activation, most_bytes=most_bytes)
    expected = on_every_combination(model, x, train + more, train, activation)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_of_one_repeated_unit_it_is_the_network_on_it():
    model, unit = network(), pixels(1)
    found = video_scores(model, unit.expand(7, -1, -1, -1, -1), 7, 4, activation="logits")
    torch.testing.assert_close(found, model(unit.expand(4, -1, -1, -1, -1), 4).detach(), rtol=0, atol=1e-5)


def test_features_stay_within_the_memory_that_is_given():
    """The units that a layer sees at a time are the fewer, the less memory is given; every combination is seen."""
    model, x = network(), pixels(10)
    seen = []
    model.layers["res5_1"].register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    counts = []
    for most_bytes in (None, 500_000, 250_000, 0):
        seen.clear()
        video_scores(model, x, 10, 4, most_bytes=most_bytes)
        counts.append(max(seen))
    # 102 of the 144 differ.
    assert counts[0] == 102
    assert counts == sorted(counts, reverse=True) and counts[1] < 102 and counts[-1] == 4


def test_layout_stays_channels_last():
    model, x = network().to(memory_format=torch.channels_last_3d), pixels(2 * 6, frames=3, side=64)
    for layer in model.layers.values():
        layer.register_forward_hook(
            lambda _module, _inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last_3d))
        )
    seen = []
    video_scores(model, x, 6, 4)
    assert seen and all(seen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype):
    model, x = network(), pixels(6)
    with torch.autocast("cpu", dtype):
        found = video_scores(model, x, 6, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, video_scores(model, x, 6, 4), rtol=0, atol=0.05)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4 units"):
        video_scores(network(), pixels(3), 3, 4)
    with pytest.raises(ValueError, match="units_infer=5 does not divide the 6 units"):
        video_scores(network(), pixels(6), 5, 4)
