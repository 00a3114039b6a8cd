"""The arithmetic of plans, against sums done by hand, and what must hold of every plan."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planning.constants import Figure
from benchmarks.planning.known import step_rate
from benchmarks.planning.plan import Replaced, plan
from benchmarks.planning.video_bytes import bytes_read, made_up_row, packet_sizes
from pipelines.packets import needed_packets
from preprocess.errors import UsageError
from tests.benchmarks.planning.planned import asked
from v4d.config import DataConfig
from v4d.device_peak import training_flops

R50 = {"recipe": "k400_v4d_r50", "batch": 16}
OWN = Replaced(step=Figure(100.0, "videos/s", "given", "--videos-per-second-per-gpu"))


def test_a_plan_by_hand():
    made = plan(asked(videos=1000, gpus=2, **R50))
    # 300 JPEGs, up to the next block of 512, a row of at most a block, and the headers of both.
    assert made.bytes_per_video == 300 * 14_275 + 380 + 3 * 512
    assert made.shard_bytes == 1000 * made.bytes_per_video
    assert made.core_hours == pytest.approx(1000 * 300 * 2.27e-3 / 3600)
    assert made.list_bytes == 1000 * 562
    # 32 batches of 32 hold 1,000 videos; each takes 16/120 s on every GPU.
    assert made.rehearsal.balance.steps == 32
    assert made.epoch_hours == pytest.approx(32 * 16 / 120 / 3600)
    assert made.train_hours == pytest.approx(100 * 32 * 16 / 120 / 3600)
    # 4 units of 8 frames, each a JPEG of its own; two GPUs on the node.
    assert made.bytes_read == 32 * 14_275
    storage = made.limits[3]
    assert storage.needs == pytest.approx(2 * 120 * 32 * 14_275)
    assert (made.bound_by, made.videos_per_s, made.hours) == ("GPU", 120.0, None)


def test_what_binds_is_the_scarcest():
    # At 1,037 videos/s: 0.82 ms of CPU and 16 JPEGs for each video.
    free = plan(asked())
    assert (free.bound_by, free.videos_per_s) == ("GPU", 1037.0)
    assert free.limits[2].needs == pytest.approx(1.037 * 0.82)
    cores = plan(asked(cores_per_gpu=0.41))
    assert (cores.bound_by, cores.videos_per_s) == ("CPU", pytest.approx(500.0))
    assert cores.train_hours == pytest.approx(free.train_hours * 1037 / 500)
    storage = plan(asked(cores_per_gpu=0.41, storage_bytes_per_s=50e6))
    assert storage.bound_by == "storage"
    assert storage.videos_per_s == pytest.approx(50e6 / (16 * 14_275))
    # The GPUs of a node share what it reads: five GPUs lie on nodes of two.
    shared = plan(asked(gpus=5, gpus_per_node=2, storage_bytes_per_s=100e6))
    assert shared.videos_per_s == pytest.approx(storage.videos_per_s)
    assert shared.asked.machine.nodes == 3
    loader = plan(asked(codec="h264"))
    assert (loader.bound_by, loader.videos_per_s) == ("loader", 220.0)
    assert "mjpeg" in loader.relief


def test_room_and_preprocessing_may_bind_before_training():
    fits = plan(asked(disk_bytes=4.3e9, preprocess_cores=8))
    assert fits.bound_by == "GPU"
    assert plan(asked(disk_bytes=4.2e9, preprocess_cores=8)).bound_by == "disk"
    # 1,000 videos are 32 shards of up to 32: on 8 cores 4 after the other, on 100 cores one.
    seconds = 300 * 2.27e-3
    assert fits.preprocess_hours == pytest.approx(4 * 32 * seconds / 3600)
    assert plan(asked(preprocess_cores=100)).preprocess_hours == pytest.approx(32 * seconds / 3600)
    assert fits.hours == fits.preprocess_hours + fits.train_hours
    slow = plan(asked("optim.epochs=1", "optim.milestones=[]", preprocess_cores=1))
    assert slow.bound_by == "preprocessing"
    assert "--shard-size" in plan(asked("optim.epochs=1", "optim.milestones=[]", preprocess_cores=40)).relief


@given(videos=st.integers(1, 4000), gpus=st.integers(1, 64), more=st.integers(1, 64))
@settings(max_examples=8)
def test_more_gpus_never_take_longer(videos, gpus, more):
    few, many = (plan(asked(videos=videos, gpus=count), OWN) for count in (gpus, gpus + more))
    assert many.train_hours <= few.train_hours
    # Of one global batch too, where it divides.
    few, many = (plan(asked(videos=videos, gpus=count, batch=64 // count), OWN) for count in (2, 8))
    assert many.train_hours == pytest.approx(few.train_hours / 4)


@given(videos=st.integers(1, 2000), times=st.integers(2, 4), codec=st.sampled_from(["mjpeg", "vp9", "h264"]))
@settings(max_examples=6)
def test_room_and_core_hours_are_linear_in_the_videos(videos, times, codec):
    one, many = (plan(asked(videos=count, codec=codec), OWN) for count in (videos, times * videos))
    assert many.disk_bytes == pytest.approx(times * one.disk_bytes)
    assert many.core_hours == pytest.approx(times * one.core_hours)
    assert many.train_hours >= one.train_hours


@given(cores=st.integers(1, 50), more=st.integers(1, 50), rate=st.floats(1, 1e4), faster=st.floats(1, 10))
@settings(max_examples=8)
def test_more_of_anything_never_takes_longer(cores, more, rate, faster):
    def hours(preprocess_cores, step, **machine):
        given_rate = Replaced(step=replace(OWN.step, value=step))
        return plan(asked(preprocess_cores=preprocess_cores, **machine), given_rate).hours

    least = {"cores_per_gpu": cores / 10, "storage_bytes_per_s": cores * 1e6}
    most = {"cores_per_gpu": (cores + more) / 10, "storage_bytes_per_s": (cores + more) * 1e6}
    slowest = hours(cores, rate, **least)
    assert hours(cores + more, rate, **least) <= slowest
    assert hours(cores, rate * faster, **least) <= slowest
    assert hours(cores, rate, **most) <= slowest


def test_gpus_that_lose_time_to_each_other_take_longer_by_it():
    alone, beside = plan(asked(gpus=4)), plan(asked(gpus=4, efficiency=0.8))
    assert beside.train_hours == pytest.approx(alone.train_hours / 0.8)
    assert any("was not measured" in note for note in alone.notes)
    assert not any("lose to each other" in note for note in beside.notes)


def test_what_was_not_measured_is_refused():
    for wanted, says in (
        (asked(gpu="b200"), "not measured: training on a GPU 'b200' (there are h100, h200)"),
        (asked(batch=4), "v4d_resnet18 on h100 in batches of 4 on each, bf16, compiled"),
        (asked("train.precision='fp32'"), "fp32, compiled"),
        (asked("model.blocks_4d=[]"), "not measured"),
        (asked("train.checkpoint_stages=['res2']"), "not measured"),
        (asked("train.micro_batch=4"), "in batches of 4 "),
    ):
        with pytest.raises(UsageError) as refused:
            plan(wanted)
        assert says in str(refused.value)
        assert plan(wanted, OWN).figures["training step"].basis == "given"
    # No precision but bf16 was: there is nothing to scale.
    with pytest.raises(UsageError, match="not measured") as refused:
        plan(replace(asked("train.precision='fp32'"), extrapolate=True))
    assert "--extrapolate" not in str(refused.value)


def test_other_batches_are_assumed_to_be_as_fast_and_said_to_be():
    for batch, less_busy in ((8, True), (32, True), (128, False), (512, False)):
        found = step_rate(asked(batch=batch).recipe, "h100", batch, extrapolate=False)
        assert (found.value, found.basis) == (1037.0, "assumed")
        assert f"that of batches of 64 on each GPU: {batch} were not measured" in found.note
        assert ("less busy" in found.note) == less_busy
        assert plan(asked(batch=batch)).notes[0] == f"training step is assumed: {found.note}"
    parts = asked("train.micro_batch=32").recipe
    assert "64 on each GPU: 32 were" in step_rate(parts, "h100", 64, extrapolate=False).note
    # What is computed again takes time that was not measured.
    again = step_rate(asked("train.checkpoint_stages=['res2']").recipe, "h100", 64, extrapolate=True)
    assert again.note.endswith("what train.checkpoint_stages computes again is not counted")


def test_gpus_that_do_not_divide_the_batch_and_sizes_beyond_all():
    with pytest.raises(UsageError, match="does not divide over 3 processes"):
        plan(asked("train.global_batch=64", gpus=3))
    with pytest.raises(UsageError, match="up to 10,000,000 videos and 1,024 GPUs"):
        plan(asked(videos=10_000_001))


def test_what_is_extrapolated_says_from_what():
    known, wider = asked(), asked("model.base_width=80", extrapolate=True)
    scaled = step_rate(wider.recipe, "h100", 64, True)
    flops = [training_flops(one.recipe, 400) for one in (known, wider)]
    assert scaled.basis == "extrapolated"
    assert scaled.value == pytest.approx(1037 * flops[0] / flops[1])
    assert "from v4d_resnet18 (1037), by multiply-adds" in scaled.note
    # Twice as many frames: half as many videos of the loader, and twice the CPU for each.
    made = plan(asked(gpus=2, **R50))
    assert made.figures["training step"].basis == "measured"
    assert made.figures["loader"].value == pytest.approx(2118 / 2)
    assert made.figures["loader's CPU"].value == pytest.approx(1.64)
    assert {made.figures[name].basis for name in ("loader", "loader's CPU")} == {"extrapolated"}
    # Far more frames only where that is asked for.
    many = ("data.units=36",)
    assert plan(asked(*many, gpus=2, extrapolate=True), OWN).figures["loader"].value == pytest.approx(2118 / 9)
    without = plan(asked(*many, gpus=2), OWN)
    assert "loader" not in without.figures
    assert without.limits[1].allows is None and without.limits[2].needs is None


@pytest.mark.parametrize("codec", ["mjpeg", "vp9", "h264"])
def test_what_a_step_reads_is_what_the_loader_needs(codec):
    row = made_up_row(codec, 300, 30.0)
    assert row.packet_bytes.tolist() == packet_sizes(codec, 300).tolist()
    everything = bytes_read(row, DataConfig(units=75, frames=4, stride=1))
    # All frames, but for the last ones of sections that a unit does not begin with.
    assert everything == row.packet_bytes.sum()
    one_frame = bytes_read(row, DataConfig(units=1, frames=1))
    of_each = [row.packet_bytes[needed_packets(row.packet_back, [frame])].sum() for frame in range(300)]
    assert one_frame == pytest.approx(sum(of_each) / 300, rel=0.05)
