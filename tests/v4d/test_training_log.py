"""What a run says: the bar, the lines, the curves, and the sheet of the first batch."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from pipelines import Batch, TrainLoader
from v4d import meter
from v4d.device_peak import device_peak, peak_flops, training_flops
from v4d.meter import Meter
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe
from v4d.sample_sheet import sample_sheet
from v4d.train import train
from v4d.training_log import TrainingLog

GAUGES = ("videos_per_s", "data_wait", "step_ms", "memory_mb")


def records(first, count, **more):
    """Steps as the trainer reports them."""
    of_all = {"videos_per_s": 12.5, "data_wait": 0.25, "step_ms": 80.0, "memory_mb": 2345.0}
    of_step = {"epoch": 3, "top1": 0.5, "lr": 0.1, "left_out": 0}
    made = [{"step": first + i, "loss": 1.5 + i, **of_step, **of_all, **more} for i in range(count)]
    made[-1]["grad_norm"] = 4.0
    return made


def curves(run):
    return EventAccumulator(str(run / "tensorboard")).Reload()


@pytest.fixture
def said():
    """A console of a terminal of 80 columns, and what it shows."""
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=80, color_system=None, highlight=False, markup=False), out


def test_the_bar_says_what_a_person_watches(tmp_path, said):
    console, out = said
    with TrainingLog(tmp_path, console, first_step=0, steps=40, silent=False) as log:
        log.steps(records(0, 10, mfu=0.41))
    *_, bar, figures, last = out.getvalue().replace("\x1b[?25h", "").rstrip().splitlines()
    assert "10/40 ETA 0:00:" in bar
    assert figures.rstrip() == "epoch 3  loss 10.500  top-1 50%  12.5 videos/s  data wait 25%  memory 2.3 GB"
    assert last == "MFU 41%"


def test_a_line_for_each_step_and_a_point_for_each_report(tmp_path, said):
    with TrainingLog(tmp_path, said[0], first_step=0, steps=40, silent=False) as log:
        log.steps(records(0, 4))
        log.steps(records(4, 4))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(8))
    assert all(line[name] == records(0, 1)[0][name] for line in lines for name in GAUGES)
    found = curves(tmp_path)
    assert [event.step for event in found.Scalars("train/loss")] == list(range(8))
    for name in (*GAUGES, "grad_norm"):
        assert [event.step for event in found.Scalars(f"train/{name}")] == [3, 7]


def test_a_run_says_all_of_it(dataset, recipe, tmp_path):
    train(recipe, dataset.root, tmp_path, gpus=0)
    lines = [line for line in map(json.loads, (tmp_path / "log.jsonl").open()) if "loss" in line]
    assert all(0 <= line["data_wait"] < 1 and line["step_ms"] > 0 and line["memory_mb"] > 50 for line in lines)
    assert all("mfu" not in line for line in lines), "nobody knows the peak of a CPU"
    # Six steps an epoch, checkpoints every two: a report each.
    assert [line["step"] for line in lines if "grad_norm" in line] == [1, 3, 5, 7, 9, 11]
    found = curves(tmp_path)
    assert len(found.Scalars("train/grad_norm")) == 6
    (sheet,) = found.Images("first_batch")
    assert sheet.step == 0


def test_the_meter_shares_out_the_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: clock[0])

    def passes(seconds):
        clock[0] += seconds

    measured = Meter(torch.device("cpu"), ranks=2, flops=10**9, peak=5e9)
    for _ in range(2):
        with measured.waiting():
            passes(1)
        with measured.computing():
            passes(2.5)
        passes(0.5)
    found = measured.read(videos=16).figures()
    assert found["videos_per_s"] == 2
    assert found["data_wait"] == 0.25
    assert found["step_ms"] == 2500
    # 2 · 10^9 of two devices' 10^10 in a second.
    assert found["mfu"] == pytest.approx(0.2)
    passes(7)
    measured.restart()
    with measured.computing():
        passes(1)
    assert measured.read(videos=3).figures()["videos_per_s"] == 3


def test_the_peak_is_known_of_few_devices():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.5e12
    assert peak_flops("NVIDIA H100 PCIe") == 756.5e12
    assert peak_flops("NVIDIA H200") == 989.5e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == peak_flops("NVIDIA A100 80GB PCIe") == 312e12
    assert peak_flops("NVIDIA GeForce RTX 3090") is None
    assert device_peak(torch.device("cpu"), "bf16") is None


def test_training_takes_three_times_the_forward_pass():
    """What autograd runs, counted, but for the gradient of the pixels, which nobody asks for."""
    recipe = load_recipe("demo", ("model.base_width=8", "data.train_crop=32"))
    model = V4D(recipe.model, 5)
    x = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        model(x, 4).sum().backward()
    forward = training_flops(recipe, 5) / 3
    assert counter.get_total_flops() < 3 * forward < 1.1 * counter.get_total_flops()


def test_the_sheet_shows_what_the_network_sees(dataset, recipe):
    take = recipe.data.train_sampling()
    batch = next(iter(TrainLoader(dataset, "train", take, global_batch=4, seed=0, device=torch.device("cpu"))))
    sheet = sample_sheet(batch, take.units, dataset.classes)
    side, unit = take.crop, take.frames * take.crop + 4
    assert sheet.shape == (4 * (side + 16), take.units * unit - 4, 3)
    assert sheet.dtype == np.uint8
    for video in range(4):
        for u in range(take.units):
            for frame in range(take.frames):
                top, left = video * (side + 16) + 16, u * unit + frame * side
                seen = batch.x[video * take.units + u, :, frame].permute(1, 2, 0).numpy()
                np.testing.assert_array_equal(sheet[top : top + side, left : left + side], seen)
    captions = sheet.reshape(4, side + 16, -1)[:, :16]
    assert all(caption.max() > 200 for caption in captions)


def test_the_sheet_of_a_large_batch_is_small_and_says_what_does_not_count():
    crops = torch.full((20, 3, 8, 224, 224), 77, dtype=torch.uint8)
    crops[2:4] = 200
    labels, keys = torch.tensor([1, -1, *[0] * 8]), ("a", "", *"cdefghij")
    all_labels = tuple((label,) if label >= 0 else () for label in labels.tolist())
    sheet = sample_sheet(Batch((crops,), labels, all_labels, torch.arange(10), keys), 2, ["x", "y"])
    assert sheet.shape == (8 * 128, 2 * (4 * 112 + 4) - 4, 3)
    assert (sheet[16:128, :448] == 77).all()
    assert (sheet[128 + 16 : 256, :448] == 200).all()
    # Captions differ where classes or keys do.
    assert not np.array_equal(sheet[:16], sheet[256 : 256 + 16])
