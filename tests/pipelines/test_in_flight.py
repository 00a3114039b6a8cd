"""How many batches are on their way, and what they take."""

import itertools
from collections import Counter

import pytest
import torch

from pipelines import EvalLoader, Sampling, TrainLoader, in_flight
from pipelines.in_flight import free_memory, plan_in_flight
from pipelines.picture_memory import PictureMemory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GB = 10**9


@pytest.fixture
def plan(monkeypatch):
    """A function: the plan for batches of 64 videos, 4 units of 4 frames of 320x256, where so much memory is free."""

    def of(free, device, cut_on_gpu=False, crops=1):
        monkeypatch.setattr(in_flight, "free_memory", lambda: free)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
        return plan_in_flight(64 * 16, (320, 256), crops, 224, device, cut_on_gpu=cut_on_gpu)

    return of


DECODED, CUT = 64 * 16 * 320 * 256 * 3, 64 * 16 * 224 * 224 * 3


@pytest.mark.parametrize(("device", "cut_on_gpu"), [(CPU, False), (GPU, False), (GPU, True)])
def test_less_is_on_its_way_where_less_is_free(plan, device, cut_on_gpu):
    plans = [plan(free, device, cut_on_gpu) for free in (0, GB, 2 * GB, 4 * GB, 8 * GB, 16 * GB, 80 * GB)]
    assert [plan.ahead for plan in plans] == sorted(plan.ahead for plan in plans)
    assert [plan.bytes for plan in plans] == sorted(plan.bytes for plan in plans)
    assert (plans[0].ahead, plans[-1].ahead) == (1, 2)
    if device == GPU:
        assert (plans[0].in_use, plans[-1].in_use) == (2, 5)
    most = plans[-1]
    kept = CUT + DECODED if cut_on_gpu else CUT
    assert most.bytes == 3 * (DECODED + CUT) + most.in_use * kept


def test_crops_count(plan):
    assert plan(80 * GB, GPU, crops=3).crops == 3 * CUT


def test_memory_of_a_control_group_is_less_than_the_machines(monkeypatch, tmp_path):
    machines = free_memory()
    assert 0 < machines < 1 << 50
    monkeypatch.setattr(in_flight, "_CGROUP", tmp_path)
    for name, content in (
        ("memory.max", "3000000"),
        ("memory.current", "2500000"),
        ("memory.stat", "anon 5\ninactive_file 7000"),
    ):
        (tmp_path / name).write_text(content + "\n")
    assert free_memory() == 3_000_000 - 2_500_000 + 7_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 3_000_000


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_a_loader_tells_its_bound(preprocessed, codec):
    data = preprocessed("80x64", codec=codec)
    take = Sampling(2, 3, 2, 48)
    train = TrainLoader(data, "train", take, global_batch=5, seed=0, device=CPU)
    test = EvalLoader(data, "val", take, global_batch=5, device=CPU)
    decoded, cut = 5 * 6 * 80 * 64 * 3, 5 * 6 * 48 * 48 * 3
    assert train.memory_bound == 3 * (decoded + cut) + 3 * cut
    assert test.memory_bound == 3 * (decoded + 3 * cut) + 3 * 3 * cut


def test_memory_is_used_again_when_nobody_holds_it():
    memory = PictureMemory((2, 3))
    first = memory.tensor()
    at = first.data_ptr()
    assert memory.tensor().data_ptr() != at
    view = first[1:]
    del first
    held = [memory.tensor() for _ in range(3)]
    assert at not in {tensor.data_ptr() for tensor in held}
    del view
    assert memory.tensor().data_ptr() == at


def test_memory_that_many_held_at_once_is_not_kept():
    memory = PictureMemory((4,))
    held = [memory.tensor() for _ in range(100)]
    held.clear()
    assert len(memory._free) == 16


def test_a_loaders_batches_come_in_memory_that_is_used_again(preprocessed):
    loader = TrainLoader(preprocessed("80x64"), "train", Sampling(2, 2, 2, 48), global_batch=4, seed=0, device=CPU)
    places = Counter(batch.x.data_ptr() for batch in itertools.islice(loader, 60))
    assert len(places) <= 6
