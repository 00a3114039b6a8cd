"""Algorithm 1 against the full network on every combination."""

import itertools

import pytest
import torch

from preprocess.errors import UsageError
from v4d.config import ModelConfig
from v4d.inference import combinations, sections, video_scores
from v4d.models.network import V4D


def test_ten_units_make_36_combinations():
    assert [len(s) for s in sections(10, 4)] == [2, 3, 3, 2]
    assert len(combinations(10, 4)) == 36


@pytest.mark.parametrize(("infer", "train"), [(i, t) for t in range(1, 9) for i in range(t, 25)])
def test_sections_cover_all_units_evenly(infer, train):
    found = sections(infer, train)
    assert list(itertools.chain(*found)) == list(range(infer))
    sizes = [len(s) for s in found]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == train


def test_too_few_units_are_refused():
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4 units"):
        sections(3, 4)


@pytest.mark.parametrize("blocks", [(), ("res3.1", "res4.1"), ("res2.0",)])
@pytest.mark.parametrize(("infer", "train"), [(4, 4), (5, 4), (6, 3), (3, 1)])
def test_equals_the_whole_network_on_every_combination(blocks, infer, train):
    torch.manual_seed(0)
    config = ModelConfig(base_width=4, dropout=0.5, blocks_4d=blocks, norm_init_4d=1.0)
    model = V4D(config, 5).eval()
    x = torch.randint(0, 256, (2 * infer, 3, 2, 32, 32), dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    of_video = x.unflatten(0, (2, infer))
    with torch.no_grad():
        every = [model(of_video[:, list(c)].flatten(0, 1), train) for c in itertools.product(*sections(infer, train))]
    expected = torch.stack([logits.softmax(dim=1) for logits in every]).mean(dim=0)
    found = video_scores(model, x, infer, train)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    model = V4D(ModelConfig(base_width=4, norm_init_4d=1.0), 5).eval()
    x = torch.randint(0, 256, (2 * 8, 3, 2, 32, 32), dtype=torch.uint8)
    whole = video_scores(model, x, 8, 4)
    monkeypatch.setattr("v4d.inference._UNITS_AT_ONCE", 24)
    torch.testing.assert_close(video_scores(model, x, 8, 4), whole)
