"""Fast inference against Algorithm 1 as written, and against the whole network on every combination."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.errors import UsageError
from v4d.config import ModelConfig
from v4d.inference import video_scores
from v4d.models import residual_4d
from v4d.models.network import V4D
from v4d.models.nonlocal_block import NonLocalBlock
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
        if isinstance(module, NonLocalBlock):
            for conv in (module.theta, module.phi, module.g, module.out):
                torch.nn.init.kaiming_normal_(conv.weight)
    # Scores that are far from sure: of sure ones the softmax hides what differs.
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    return model


def assert_same(found, expected):
    """To 1e-5, of numbers of about 1."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


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
    expected = on_every_combination(model, x, infer, train, "logits")
    assert_same(video_scores(model, x, infer, train, activation="logits"), expected)
    scores = video_scores(model, x, infer, train)
    assert_same(scores, on_every_combination(model, x, infer, train))
    assert_same(scores, as_written(model, x, infer, train))
    assert_same(scores.sum(dim=1), torch.ones(2))
    if train > 1 and name not in ("TSN", "one unit wide"):
        # It would not be the same if units were not related: each unit alone gives other scores.
        alone = torch.stack([model(x, 1).detach()]).unflatten(1, (2, infer))[0]
        apart = torch.stack([alone[:, choice].mean(dim=1) for choice in choices(infer, train)]).mean(dim=0)
        assert (apart - expected).abs().max() > 1e-4 * expected.abs().max()


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
    assert_same(found, expected)


def test_of_one_repeated_unit_it_is_the_network_on_it():
    model, unit = network(), pixels(1)
    found = video_scores(model, unit.expand(7, -1, -1, -1, -1), 7, 4, activation="logits")
    torch.testing.assert_close(found, model(unit.expand(4, -1, -1, -1, -1), 4).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocks", [("res2.1", "res4.1"), ("res2.1", "res3.1", "res4.0", "res4.1"), ()])
def test_what_is_there_at_a_time_stays_within_the_memory_that_is_given(blocks):
    """The fewer units a layer and a 4D convolution see at a time, the less memory is given."""
    model, x = network(blocks_4d=blocks), pixels(2 * 10)
    seen = {"stem": [], "res5_1": [], "conv": [], "classifier": []}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, inputs, _o, of=of: seen[of].append(len(inputs[0])))
        for of, name in (("stem", "layers.stem"), ("res5_1", "layers.res5_1"), ("classifier", "classifier"))
    ]
    whole = residual_4d.conv4d
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residual_4d, "conv4d", lambda x, *more: seen["conv"].append(len(x)) or whole(x, *more))
        largest, scores = [], []
        for most_bytes in (None, 1_000_000, 200_000, 0):
            for counts in seen.values():
                counts.clear()
            scores.append(video_scores(model, x, 10, 4, most_bytes=most_bytes))
            largest.append({of: max(counts, default=0) for of, counts in seen.items()})
    for handle in handles:
        handle.remove()
    for of in seen:
        counts = [found[of] for found in largest]
        assert counts == sorted(counts, reverse=True), (of, counts)
    # One combination of two videos; of a stem, one unit.
    assert largest[-1]["stem"] == 1 and largest[-1]["classifier"] == 2
    assert largest[-1]["conv"] <= 8 and largest[-1]["res5_1"] <= (8 if blocks else 20)
    assert largest[0]["res5_1"] == {2: 2 * 102, 4: 2 * 144, 0: 2 * 10}[len(blocks)]
    for less in scores[1:]:
        assert_same(less, scores[0])


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
    full = video_scores(model, x, 6, 4, activation="logits")
    with torch.autocast("cpu", dtype):
        found = video_scores(model, x, 6, 4, activation="logits")
        expected = on_every_combination(model, x, 6, 4, "logits")
    assert found.dtype == torch.float32
    # Sums of bfloat16 are rounded at other places: it is as near to float32 as the network itself is.
    error, usual = (found - full).abs().max(), (expected.float() - full).abs().max()
    assert 0 < error < 2 * usual + 1e-3 * full.abs().max()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4 units"):
        video_scores(network(), pixels(3), 3, 4)
    with pytest.raises(ValueError, match="units_infer=5 does not divide the 6 units"):
        video_scores(network(), pixels(6), 5, 4)
    with pytest.raises(ValueError, match="in training mode"):
        video_scores(network().train(), pixels(6), 6, 4)
    with pytest.raises(UsageError, match="makes 16,777,216 combinations"):
        video_scores(network(), pixels(64, frames=1), 64, 8)
