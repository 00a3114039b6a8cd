"""Memory of the loader does not grow, however long it runs, and whatever it meets."""

import pytest

from benchmarks.loader_memory import memory_over
from pipelines import Sampling
from tests.pipelines.broken import copied, flip_bits, rewrite_packets

BATCHES = 10_000
# The first thousands fill what is kept: the allocator's pages, the index's columns, the order of two epochs.
LOOKS, SETTLED = 10, 2
# Two hundred bytes of each batch, were they kept, would be 1.6 MB.
MOST_MB = 1.5
TAKE = Sampling(2, 2, 3, 24)


def assert_it_does_not_grow(data, most=MOST_MB, **changes):
    found = [of["anonymous"] for of in memory_over(data.root, TAKE, 1, BATCHES, LOOKS, **changes)]
    assert max(found[SETTLED:]) - found[SETTLED - 1] < most, found


@pytest.mark.parametrize("options", [{}, {"codec": "vp9"}], ids=["mjpeg", "vp9"])
def test_of_a_sound_dataset(preprocessed, options):
    assert_it_does_not_grow(preprocessed("80x64", **options))


def test_where_packets_do_not_decode(preprocessed, tmp_path):
    """Each time the video is looked for with graphs made for that: what their threads leave to the allocator adds up
    to 2 MB in the first 10,000 batches, and to 5 in 60,000."""
    broken = copied(preprocessed("80x64", codec="vp9", gop=8), tmp_path / "broken")
    row = next(number for number, row in enumerate(broken.split("train")) if row.frames > 60)
    rewrite_packets(broken, "train", {(row, 0)}, lambda packet: packet[:9] + bytes(len(packet) - 9))
    assert_it_does_not_grow(broken, most=4.0, max_bad=1.0)


def test_where_packets_are_damaged(preprocessed, tmp_path):
    damaged = copied(preprocessed("80x64"), tmp_path / "damaged")
    flip_bits(damaged, "train", 0.05, 0)
    assert_it_does_not_grow(damaged, max_bad=1.0)
