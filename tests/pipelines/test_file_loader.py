"""Videos straight from their files: the crops that a dataset made of them gives, byte for byte."""

import errno
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines import EvalLoader, Sampling, decoding
from pipelines.file_loader import FileLoader, come_as_jpegs
from pipelines.graph import picture_graph
from pipelines.packets import PacketReader
from preprocess import single_files
from preprocess.encode import encode
from preprocess.errors import DataError, UsageError
from preprocess.ffmpeg import executable
from tests.pipelines.test_undecodable import BROKEN

CPU = torch.device("cpu")
TAKE = Sampling(units=3, frames=2, stride=4, crop=48, fit_stride=True, fit_to=2)
OPTIONS = {
    "jpeg": {"resize": "80x64"},
    "square": {"resize": "64x64", "quality": 12},
    "short_at_a_rate": {"resize": "short:48", "fps": 10.0},
    "vp9": {"resize": "short:48", "codec": "vp9"},
}


def no_bad(path, why):
    raise AssertionError(why)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("crops", [1, 3])
def test_crops_are_those_of_the_dataset(name, crops, videos, preprocessed):
    see_that_crops_are_equal(preprocessed(**OPTIONS[name]), videos, crops, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"codec": "vp9", "gop": 8}, {"codec": "h264", "gop": 8}], ids=str)
def test_so_they_are_on_a_gpu(options, videos, preprocessed):
    see_that_crops_are_equal(preprocessed("160x128", **options), videos, 3, torch.device("cuda", 0))


def see_that_crops_are_equal(dataset, videos, crops, device):
    there = EvalLoader(dataset, "val", TAKE, global_batch=4, device=device, crops=crops)
    files = [videos / row.source for row in there.index]
    here = FileLoader(files, dataset, TAKE, device=device, crops=crops, on_bad=no_bad, threads=2)
    assert here.crops == there.crops
    batches = list(here)
    assert [batch.keys for batch in batches] == [(str(path),) for path in files]
    assert torch.cat([batch.rows_B for batch in batches]).tolist() == list(range(len(files)))
    assert all(batch.labels_B.item() == -1 for batch in batches)
    for place in range(there.crops):
        wanted = torch.cat([batch.crops[place][batch.mask_B.repeat_interleave(3)] for batch in there])
        found = torch.cat([batch.crops[place] for batch in batches])
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(found, wanted)


def test_a_sample_is_the_whole_video_whatever_the_network_was_trained_on(videos, dataset):
    files = [videos / "val" / "cells" / "0.mkv"]
    whole, of_segments = (
        next(iter(FileLoader(files, dataset, take, device=CPU, on_bad=no_bad)))
        for take in (TAKE, replace(TAKE, over="segment"))
    )
    assert torch.equal(whole.crops[0], of_segments.crops[0])


def test_bad_files_are_told_in_order_and_the_others_go_on(videos, dataset, tmp_path):
    good = sorted((videos / "val" / "cells").iterdir())
    text, cut_short = tmp_path / "text.mp4", tmp_path / "short.mkv"
    text.write_text("no video")
    cut_short.write_bytes(good[0].read_bytes()[:2000])
    files = [text, good[0], tmp_path / "gone.mp4", cut_short, good[1], tmp_path]
    told = []
    loader = FileLoader(files, dataset, TAKE, device=CPU, on_bad=lambda path, why: told.append((path, str(why))))
    assert [batch.keys[0] for batch in loader] == [str(good[0]), str(good[1])]
    assert [path for path, _ in told] == [text, tmp_path / "gone.mp4", cut_short, tmp_path]
    assert all(said.startswith(f"{path}: ") and "\n" not in said for path, said in told)
    assert list(FileLoader([], dataset, TAKE, device=CPU, on_bad=no_bad)) == []


def test_h264_comes_as_jpegs_where_it_cannot_be_decoded(videos, preprocessed, dataset):
    """At the best quality, so nearer to the source than those of the dataset of 80×64, and near to these."""
    of_h264 = preprocessed("80x64", codec="h264")
    files = [videos / "val" / "cells" / "0.mkv"]
    here = FileLoader(files, of_h264, TAKE, device=CPU, on_bad=no_bad)
    there = FileLoader(files, dataset, TAKE, device=CPU, on_bad=no_bad)
    assert come_as_jpegs(of_h264, CPU) and not come_as_jpegs(dataset, CPU)
    (best,), (jpeg,) = here, there
    difference = (best.crops[0].float() - jpeg.crops[0].float()).abs().mean()
    assert 0 < difference < 6


def test_it_ends_when_nobody_wants_more(videos, dataset):
    """Files are read ahead; what reads them ends with the loader, and a loader can be gone through again."""
    files = [videos / "val" / "cells" / "4.mkv"] * 20
    loader = FileLoader(files, dataset, TAKE, device=CPU, on_bad=no_bad, threads=2)
    for _ in range(2):
        batches = iter(loader)
        next(batches)
        batches.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("files", "crops"))]


def loaded_of_three(videos, dataset, tmp_path):
    """What comes of three files, one of which is named bad.mkv: the keys, and what is told."""
    good = sorted((videos / "val" / "cells").iterdir())[:2]
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(good[1].read_bytes())
    told = []
    files = [good[0], bad, good[1]]
    loader = FileLoader(files, dataset, TAKE, device=CPU, on_bad=lambda path, why: told.append((path, str(why))))
    batches = list(loader)
    assert [batch.keys[0] for batch in batches] == [str(good[0]), str(good[1])]
    alone = [next(iter(FileLoader([path], dataset, TAKE, device=CPU, on_bad=no_bad))) for path in good]
    assert all(torch.equal(batch.crops[0], single.crops[0]) for batch, single in zip(batches, alone, strict=True))
    ((path, said),) = told
    assert path == bad
    return said


def test_an_ffmpeg_that_is_killed_costs_its_file_alone(videos, dataset, tmp_path, monkeypatch, cleared):
    """As a machine without memory does it."""
    script = tmp_path / "ffmpeg"
    script.write_text(f"""#!/bin/sh
case "$(readlink /proc/$$/fd/0)" in */bad.mkv) kill -9 $$;; esac
exec {executable()} "$@"
""")
    script.chmod(0o755)
    executable.cache_clear()
    monkeypatch.setenv("V4D_FFMPEG", str(script))
    said = loaded_of_three(videos, dataset, tmp_path)
    assert said.startswith(f"ffmpeg was killed while it read {tmp_path / 'bad.mkv'} (out of memory?)")


@pytest.fixture
def cleared():
    """What is known of the ffmpeg of a test is forgotten after it."""
    yield
    executable.cache_clear()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EIO, "Input/output error", "/scratch"), "Input/output error"),
        (MemoryError(), "out of memory"),
    ],
)
def test_an_error_of_the_machine_costs_its_file_alone(error, says, videos, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(single_files, "encode", failing(error))
    assert loaded_of_three(videos, dataset, tmp_path) == f"{tmp_path / 'bad.mkv'}: {says}"


@pytest.mark.parametrize("error", [TypeError("a fault of ours"), UsageError("ffmpeg is too old")])
def test_what_is_no_fault_of_a_file_ends_it(error, videos, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(single_files, "encode", failing(error))
    with pytest.raises(type(error), match=str(error)):
        loaded_of_three(videos, dataset, tmp_path)


def failing(error):
    """What ``encode`` is to be where it fails at one file."""

    def encode_or_fail(source, *arguments, **options):
        if source.name == "bad.mkv":
            raise error
        return encode(source, *arguments, **options)

    return encode_or_fail


@pytest.mark.parametrize(
    ("codec", "how"), [("mjpeg", "Huffman table"), ("mjpeg", "scan header"), ("vp9", "header alone")]
)
def test_packets_that_dali_does_not_decode_cost_their_file_alone(
    codec, how, videos, preprocessed, tmp_path, monkeypatch
):
    dataset = preprocessed("80x64", codec="vp9", gop=8) if codec == "vp9" else preprocessed("80x64")
    monkeypatch.setattr(PacketReader, "read", breaking(codec, how))
    said = loaded_of_three(videos, dataset, tmp_path)
    assert said.startswith(f"{tmp_path / 'bad.mkv'}: DALI cannot decode it: ")


def test_a_device_that_can_do_nothing_more_ends_it(videos, preprocessed, tmp_path, monkeypatch):
    built = []

    def build_once(*arguments, **options):
        built.append(arguments)
        if len(built) > 1:
            raise RuntimeError("CUDA runtime API error: the device is gone")
        return picture_graph(*arguments, **options)

    monkeypatch.setattr(PacketReader, "read", breaking("mjpeg", "scan header"))
    monkeypatch.setattr(decoding, "picture_graph", build_once)
    with pytest.raises(DataError, match="DALI can do nothing more on cpu: CUDA runtime API error: the device is gone"):
        loaded_of_three(videos, preprocessed("80x64"), tmp_path)


def breaking(codec, how):
    """What ``PacketReader.read`` is to be where the packets of one file are whole, but not to be decoded."""
    read = PacketReader.read

    def read_or_break(reader, wanted):
        found = read(reader, wanted)
        if found.row.key.endswith("bad.mkv"):
            broken = BROKEN[codec][how](found.packets[0].tobytes())
            found.packets[0] = np.frombuffer(broken, np.uint8)
        return found

    return read_or_break
