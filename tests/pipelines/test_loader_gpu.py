"""The loaders on a GPU against the same on the CPU. V4D_TEST_DATA names a dataset, for machines without ffmpeg."""

import itertools
import os
from pathlib import Path

import pytest
import torch

from pipelines import EvalLoader, Sampling, TrainLoader
from preprocess.index import read_dataset

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# nvJPEG is not libjpeg-turbo: on an H200 the mean was 0.58 and the largest difference 44.
MEAN_TOLERANCE, LARGEST_TOLERANCE = 1.5, 64


@pytest.fixture(scope="module")
def data(request):
    if named := os.environ.get("V4D_TEST_DATA"):
        return read_dataset(Path(named))
    return request.getfixturevalue("dataset")


def loaders(data, device):
    crop = min(data.size)
    train = TrainLoader(data, "train", Sampling(4, 4, 8, crop), global_batch=2, seed=1, device=device)
    test = EvalLoader(data, "val", Sampling(5, 4, 8, crop), global_batch=2, device=device)
    return itertools.chain(itertools.islice(train, 6), test)


def test_the_gpu_gives_the_batches_of_the_cpu(data):
    worst = mean = 0.0
    for on_gpu, on_cpu in zip(loaders(data, torch.device("cuda", 0)), loaders(data, torch.device("cpu")), strict=True):
        assert torch.equal(on_gpu.rows_B, on_cpu.rows_B)
        assert torch.equal(on_gpu.labels_B, on_cpu.labels_B)
        for x, y in zip(on_gpu.crops, on_cpu.crops, strict=True):
            assert x.device.type == "cuda"
            assert x.dtype == torch.uint8
            assert x.is_contiguous(memory_format=torch.channels_last_3d)
            difference = (x.cpu().int() - y.int()).abs().float()
            worst, mean = max(worst, difference.max().item()), max(mean, difference.mean().item())
    print(f"\nGPU against CPU: largest difference {worst:.0f}, largest mean of a batch {mean:.2f}")
    assert mean <= MEAN_TOLERANCE
    assert worst <= LARGEST_TOLERANCE


def test_tensors_that_are_held_stay_what_they_were(data):
    held = [(x, x.clone()) for batch in loaders(data, torch.device("cuda", 0)) for x in batch.crops]
    torch.cuda.synchronize()
    assert all(torch.equal(x, copy) for x, copy in held)


def test_a_tensor_that_is_dropped_is_read_before_its_memory_is_written_again(data):
    device = torch.device("cuda", 0)

    def copies(busy):
        taken = []
        loader = TrainLoader(data, "train", Sampling(4, 4, 8, 224), global_batch=2, seed=1, device=device)
        for batch in itertools.islice(loader, 24):
            if busy:
                # Some 20 ms in which the GPU does not get to the copy, while the loader goes on.
                torch.cuda._sleep(40_000_000)
            taken.append(batch.x.clone())
            del batch
            if not busy:
                torch.cuda.synchronize()
        return taken

    assert all(torch.equal(a, b) for a, b in zip(copies(busy=True), copies(busy=False), strict=True))
