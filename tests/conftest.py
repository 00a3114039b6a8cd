"""Synthetic videos, rendered by ffmpeg when a test first asks for one: 30 frames of 64×48 at 30/s unless they say else.

No frame is like another, and the names say what is special about each.
"""

import os
import re
import signal
import subprocess
from functools import partial

import pytest
import torch
from hypothesis import settings

from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions, executable
from preprocess.local import write_shards_locally
from preprocess.run import preprocess

if not torch.cuda.is_available():
    # Triton reads it when kernels are defined, at the first import of their module.
    os.environ["TRITON_INTERPRET"] = "1"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell has what it starts in the background. Tests start programs that are to hear a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG_CLASS = "漢" * 50

# How long one example takes says nothing on a machine that does other work too.
settings.register_profile("v4d", deadline=None)
settings.load_profile("v4d")

PICTURE = (
    "-f lavfi -i nullsrc=size=64x48:rate=30:duration={},format=yuv420p,geq="
    "lum='128+90*sin((X+4*N)/7)':cb='128+60*sin((Y+3*N)/9)':cr='128+60*cos((X+Y+2*N)/11)'"
)
SOURCES = {
    "{picture}": PICTURE.format(1),
    "{long_picture}": PICTURE.format(4),
    "{slow_picture}": PICTURE.format(20).replace("rate=30", "rate=10"),
}
X264 = "-c:v libx264 -threads 1 -g 12 -bf 2"
# Two passes of it make hidden frames.
ALT_REF = (
    "-vf noise=alls=20:allf=t -threads 1 -b:v 60k -lag-in-frames 25 -auto-alt-ref 1 -arnr-maxframes 7 "
    "-arnr-strength 5 -cpu-used 4"
)
# The arguments of ffmpeg for each; {NAME} is another one.
RENDERED = {
    "h264.mp4": f"{{picture}} {X264} -movflags +faststart",
    "moov_last.mp4": "-i {h264.mp4} -c copy",
    "h264.mkv": "-i {h264.mp4} -c copy",
    "h264.avi": "-i {h264.mp4} -c copy",
    "h264.ts": "-i {h264.mp4} -c copy",
    "h264.flv": "-i {h264.mp4} -c copy",
    "raw.h264": "-i {h264.mp4} -c copy",
    "audio_longer.mkv": "-i {h264.mp4} -f lavfi -i sine=duration=3 -map 0 -map 1 -c:v copy",
    "audio_longer.mp4": "-i {h264.mp4} -f lavfi -i sine=duration=3 -map 0 -map 1 -c:v copy",
    "audio_longer.avi": "-i {h264.mp4} -f lavfi -i sine=duration=3 -map 0 -map 1 -c:v copy",
    "fragmented.mp4": "-i {h264.mp4} -c copy -movflags frag_keyframe+empty_moov",
    "edit_list.mp4": "-ss 0.5 -i {h264.mp4} -c copy",
    "starts_late.mkv": "-itsoffset 5 -i {h264.mp4} -c copy",
    "interlaced.mp4": f"{{picture}} {X264} -flags +ildct+ilme -x264-params tff=1",
    "interlaced.ts": "{picture} -c:v mpeg2video -flags +ildct+ilme -bf 2",
    "mpeg2.mpg": "{picture} -c:v mpeg2video -bf 2",
    "hevc.mp4": "{picture} -c:v libx265 -x265-params log-level=none:pools=1",
    "ten_bit.mp4": "{picture} -c:v libx264 -threads 1 -pix_fmt yuv420p10le",
    "vp8_alt_ref.webm": f"{{long_picture}} -c:v libvpx {ALT_REF} -pass 2 -passlogfile {{vp8_pass}}",
    "vp8_pass": f"{{long_picture}} -c:v libvpx {ALT_REF} -pass 1 -passlogfile {{folder}}/vp8_pass -f null",
    "vp9_alt_ref.webm": f"{{long_picture}} -c:v libvpx-vp9 {ALT_REF} -pass 2 -passlogfile {{vp9_pass}}",
    "vp9_pass": f"{{long_picture}} -c:v libvpx-vp9 {ALT_REF} -pass 1 -passlogfile {{folder}}/vp9_pass -f null",
    "vp9.ivf": "-i {vp9_alt_ref.webm} -c copy",
    "av1.webm": "{picture} -c:v libaom-av1 -threads 1 -cpu-used 8 -lag-in-frames 16",
    "animated.gif": "{picture}",
    "animated.apng": "{picture} -plays 0",
    "mpeg4.avi": "{picture} -c:v mpeg4 -bf 2",
    "packed_b_frames.avi": "{picture} -c:v libxvid -bf 2",
    "wmv2.wmv": "{picture} -c:v wmv2",
    "flv1.flv": "{picture} -c:v flv",
    "ffv1.mkv": "{picture} -c:v ffv1",
    "vfr.mp4": f"{{picture}} -vf select='not(mod(n,7))+gt(n,20)' -fps_mode vfr {X264}",
    "vfr.mkv": "-i {vfr.mp4} -c copy",
    "slideshow.mkv": "-f lavfi -i testsrc2=size=64x48:rate=1/5:duration=15 -c:v libx264 -threads 1",
    "slideshow.flv": "-i {slideshow.mkv} -c copy",
    "pause_at_the_end.mkv": f"{{picture}} -vf select='not(between(n,3,28))' -fps_mode vfr {X264}",
    "times_go_back.mkv": "-i {h264.mkv} -c copy -bsf:v setts=pts='if(eq(mod(N,7),3),PTS-2000,PTS)'",
    "times_repeat.nut": "-i {h264.mp4} -c copy -bsf:v setts=ts='mod(N,5)*1000'",
    "one_frame.mp4": "{picture} -frames:v 1 -c:v libx264",
    "odd_size.mkv": "{picture} -vf scale=175:91 -pix_fmt yuv444p -c:v ffv1",
    "latin1_title.avi": "{picture} -metadata title=caf@ -c:v mpeg4",
    "audio_only.m4a": "-f lavfi -i sine=duration=1",
    "audio_with_cover.mp3": "-f lavfi -i sine=duration=1 -f lavfi -i color=red:size=64x48 -frames:v 1 "
    "-map 0 -map 1 -c:v mjpeg -disposition:v attached_pic",
    "still.jpg": "{picture} -frames:v 1",
    "long.mp4": f"{{long_picture}} {X264}",
    "secret.ts": "-f lavfi -i color=lime:size=64x48:duration=0.3:rate=30 -c:v libx264 -threads 1",
    "secret.mp4": "-i {secret.ts} -c copy",
    "a_day_later.mkv": "-i {h264.mkv} -c copy -bsf:v setts=ts='if(gte(N,20),TS+86400000,TS)'",
    "large.h264": "-f lavfi -i testsrc2=size=320x240 -frames:v 5 -c:v libx264 -threads 1 -bf 0",
    "small.h264": "-f lavfi -i testsrc2=size=64x48 -frames:v 5 -c:v libx264 -threads 1 -bf 0",
    "size_grows.h264": "-i concat:{small_long.h264}|{large.h264} -c copy",
    "size_grows.mkv": "-i {size_grows.h264} -c copy",
    "small_long.h264": "{long_picture} -c:v libx264 -threads 1 -bf 0",
    "size_changes.h264": "-i concat:{small.h264}|{large.h264}|{small.h264} -c copy",
    "size_changes.mkv": "-i {size_changes.h264} -c copy",
    "size_changes_turned.mkv": "-display_rotation 90 -i {size_changes.mkv} -c copy",
    "open_gop.mkv": "{picture} -c:v libx264 -threads 1 -g 8 -bf 3 -x264-params open-gop=1:scenecut=0",
    "refresh.mkv": "{picture} -c:v libx264 -threads 1 -g 8 -bf 0 -x264-params intra-refresh=1",
    "refresh.mp4": "-i {refresh.mkv} -c copy",
    "starts_late.mp4": "-itsoffset 5 -i {h264.mp4} -f lavfi -i sine=duration=3 -map 0 -map 1 -c:v copy",
    "mpeg2_gop.mkv": "{picture} -c:v mpeg2video -g 8 -bf 2",
    "hevc_gop.mp4": "{picture} -c:v libx265 -x265-params log-level=none:pools=1:keyint=8:open-gop=1",
    "long_gops.mp4": f"{{slow_picture}} {X264} -g 10 -movflags +faststart",
    "long_gops.mkv": "-i {long_gops.mp4} -c copy",
    "long_gops.webm": "{slow_picture} -c:v libvpx-vp9 -threads 1 -deadline realtime -cpu-used 8 -g 10",
    "red_above_blue.mp4": "-f lavfi -i color=red:size=64x96:duration=0.2,drawbox=y=48:color=blue:t=fill "
    "-c:v libx264 -threads 1",
    "turned_90.mp4": "-display_rotation 90 -i {red_above_blue.mp4} -c copy",
    "turned_180.mov": "-display_rotation 180 -i {red_above_blue.mp4} -c copy",
}
for colour in ("red", "lime", "blue", "white", "gray"):
    for levels in ("tv", "pc"):
        RENDERED[f"{colour}_bt709_{levels}.mp4"] = (
            f"-f lavfi -i color={colour}:size=1280x720:duration=0.1 -c:v libx264 -threads 1 -qp 4 -vf "
            f"scale=out_color_matrix=bt709:out_range={levels},format=yuv420p -colorspace bt709 -color_range {levels}"
        )


@pytest.fixture(scope="session")
def run_ffmpeg():
    """A function: runs ffmpeg with some arguments and returns what it writes to its standard output."""

    def run(*arguments):
        command = [executable(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    return run


@pytest.fixture(scope="session")
def video(tmp_path_factory, run_ffmpeg):
    """A function: ``video(name)`` is the path of one of RENDERED."""
    folder = tmp_path_factory.mktemp("rendered")

    def render(name):
        path = folder / name
        if not path.exists():
            words = RENDERED[name].replace("{folder}", str(folder))
            for source, arguments in SOURCES.items():
                words = words.replace(source, arguments)
            run_ffmpeg(*(re.sub(r"{(.*?)}", lambda name: str(render(name[1])), word) for word in words.split()), path)
        return path

    return render


@pytest.fixture(scope="session")
def small(video, tmp_path_factory):
    """Eight videos of three classes and two that cannot be read, in five shards. Not to be changed."""

    root = tmp_path_factory.mktemp("videos")
    sources = {
        "a": ["h264.mp4", "vfr.mkv", "vfr.mp4", "broken.mp4"],
        "b": ["one_frame.mp4", "edit_list.mp4", "broken.mp4"],
        LONG_CLASS: ["one_frame.mp4", "vfr.mkv", "vfr.mp4"],
    }
    for name, files in sources.items():
        (root / name).mkdir()
        for source in files:
            content = b"no video" if source == "broken.mp4" else video(source).read_bytes()
            (root / name / source).write_bytes(content)
    data = tmp_path_factory.mktemp("shards") / "small"
    listing = list_folder(root, 0.4)
    preprocess(
        listing, data, EncodeOptions("48x32", quality=12), partial(write_shards_locally, workers=2), shard_size=2
    )
    return data


@pytest.fixture(scope="session")
def vp9(video, run_ffmpeg, tmp_path_factory):
    """Two VP9 videos in 3 layers, of 20 frames and 3, in one shard. Not to be changed."""
    root = tmp_path_factory.mktemp("videos")
    (root / "a").mkdir()
    for name, frames in (("1.mp4", 20), ("2.mp4", 3)):
        run_ffmpeg("-i", video("h264.mp4"), "-frames:v", frames, root / "a" / name)
    data = tmp_path_factory.mktemp("shards") / "vp9"
    executor = partial(write_shards_locally, workers=1)
    preprocess(list_folder(root, 0), data, EncodeOptions("64x48", codec="vp9", gop=8), executor)
    return data
