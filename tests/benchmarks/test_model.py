"""The networks of the model benchmark do the same, and its comparison runs. No test looks at a time."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import torch
from torch import nn

from benchmarks.model import Job, as_table, jobs_of, measure, prepared
from benchmarks.plain_network import PlainConv4d, PlainV4D
from v4d.config import ModelConfig
from v4d.models.conv4d import Conv4d
from v4d.models.network import V4D


def with_weights_of(plain, ours):
    """Their convolutions and norms come in the same order; a 4D kernel is one 3D kernel for each neighbour there."""
    wanted = (nn.Conv3d, Conv4d, nn.BatchNorm3d, nn.Linear)
    theirs = [module for module in ours.modules() if isinstance(module, wanted)]
    inner = {conv for module in plain.modules() if isinstance(module, PlainConv4d) for conv in module.convs}
    wanted = (*wanted, PlainConv4d)
    here = [module for module in plain.modules() if isinstance(module, wanted) and module not in inner]
    assert len(here) == len(theirs)
    with torch.no_grad():
        for to, of in zip(here, theirs, strict=True):
            if isinstance(to, PlainConv4d):
                for place, conv in enumerate(to.convs):
                    conv.weight.copy_(of.weight[:, :, place])
            else:
                to.load_state_dict(of.state_dict())
    return plain


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("kernel", [(3, 3, 1, 1), (3, 1, 1, 1), (3, 3, 3, 3)])
@torch.no_grad()
def test_the_plain_network_is_v4d(depth, kernel):
    torch.manual_seed(0)
    config = ModelConfig(depth=depth, base_width=8, kernel_4d=kernel, norm_init_4d=1.0)
    ours = V4D(config, 5).eval()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    plain = with_weights_of(PlainV4D(config, 5), ours).eval()
    x = torch.randint(0, 256, (8, 3, 2, 48, 48), dtype=torch.uint8)
    expected = ours(x, 4)
    torch.testing.assert_close(plain(x, 4), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@torch.no_grad()
def test_every_way_of_a_test_gives_the_same_scores():
    size = ("test", "v4d_resnet18", 1, 1, 32, "cpu")
    plain, plain_as_written = (prepared(Job(way, *size))() for way in ("plain", "plain, as written"))
    ours, ours_as_written = (prepared(Job(way, *size))() for way in ("v4d", "v4d, as written"))
    torch.testing.assert_close(plain, plain_as_written)
    torch.testing.assert_close(ours, ours_as_written)


def test_comparisons_are_measured_by_turns():
    size = ("v4d_resnet18", 1, 1, 32, "cpu")
    jobs = [Job(way, task, *size) for task in ("train", "forward") for way in ("plain", "v4d")]
    results = measure(jobs, rounds=2, seconds=0.01, threads=1)
    assert [len(result.seconds) for result in results] == [2] * 4
    assert all(result.peak > 50 and min(result.seconds) > 0 for result in results)
    assert as_table([results[:2], results[2:]]).row_count == 4


def test_what_is_compared():
    found = [(jobs[0].task, jobs[0].network, [job.way for job in jobs]) for jobs in jobs_of(50, 224, "cpu", False)]
    assert found[0] == ("train", "v4d_resnet50", ["plain", "plain, bf16", "v4d", "v4d, bf16"])
    tests = ["plain", "plain, as written", "v4d, as written", "v4d"]
    assert found[2] == ("test", "v4d_resnet50", [*tests, "v4d, bf16"])
    of_gpu = [[(job.way, job.precision) for job in jobs] for jobs in jobs_of(18, 224, "cuda", False)]
    assert of_gpu[0] == [("plain", "fp32"), ("plain, bf16", "bf16"), ("v4d", "bf16")]
    assert of_gpu[2] == [(way, "bf16") for way in tests]
    assert found[-1] == ("forward", "i3d_s_resnet50", ["pytorchvideo slow_r50", "v4d"])
    assert all(len({job.title for job in jobs}) == 1 for jobs in jobs_of(18, 224, "cpu", True))


def test_a_stop_is_no_traceback():
    """Ctrl-C of a terminal: it goes to the benchmark and to its processes."""
    line = [sys.executable, "-m", "benchmarks.model", "--depth", "18", "--crop", "32", "--rounds", "1000"]
    with Popen(line, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while process.poll() is None and len(children.read_text().split()) < 3:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "by turns in one run" in out
    assert "Traceback" not in err
