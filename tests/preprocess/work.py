"""A work folder in which commands are typed, and what they leave in it."""

import json
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

from click.testing import CliRunner

from cli import main
from preprocess.index import read_dataset
from tests.preprocess.preprocess_command import tree

# Frames that the rendered videos have.
FRAMES = {"h264.mp4": 30, "h264.mkv": 30, "av1.webm": 30, "long.mp4": 120, "one_frame.mp4": 1}


class Work:
    """The current folder. ``put`` lays files there; ``v4d`` and ``preprocess`` are what a person types."""

    def __init__(self, root, video):
        self.root = root
        self._video = video

    def put(self, files, below="."):
        """Files by their paths: texts, bytes, or the names of rendered videos, of which only the suffix may differ."""
        for name, content in files.items():
            path = self.root / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content in FRAMES:
                path.symlink_to(self._video(content))
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def v4d(self, *arguments, code=0):
        """Run a command in this process; an error must be one line on standard error, without a traceback."""
        run = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert run.exit_code == code, (run.output, run.exception)
        assert "Traceback" not in run.output
        if code:
            last = run.stderr.splitlines()[-1]
            assert last.startswith(("v4d: ", "Error: ")), run.stderr
            assert len(run.stderr.splitlines()) == 1 or last.startswith("Error: "), run.stderr
        else:
            assert run.stderr == ""
        return run

    def preprocess(self, *arguments, code=0):
        """The same for ``v4d preprocess`` into small frames, by one process, if ``arguments`` do not say else."""
        small = () if "--resize" in arguments else ("--resize", "64x48")
        return self.v4d("preprocess", *arguments, *small, "--workers", 1, code=code)

    def in_a_process(self, *arguments, **environment):
        """``v4d preprocess`` in a process of its own."""
        command = [sys.executable, "-m", "cli", "preprocess", *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, errors="replace", timeout=120, **environment
        )

    def tree(self):
        return tree(self.root)


def say_json(run):
    """The lines of JSON that a command wrote, all of its standard output."""
    return [json.loads(line) for line in run.stdout.splitlines()]


def rejected(data):
    """The reason of each rejected video, by split and key."""
    lines = (Path(data) / "rejected.jsonl").read_text(encoding="utf-8").split("\n")
    return {f"{line['split']}/{line['key']}": line["reason"] for line in map(json.loads, lines[:-1])}


def taken(data):
    """The rows of all splits, by split and key. On the way it sees that the files of a dataset agree."""
    dataset = read_dataset(Path(data))
    about = json.loads((Path(data) / "dataset.json").read_text(encoding="utf-8"))
    rows = {}
    for split, counts in dataset.splits.items():
        index = dataset.split(split)
        rows |= {f"{split}/{row.key}": row for row in index}
        assert len(index) == counts["videos"] == sum(shard["videos"] for shard in counts["shards"])
        assert counts["frames"] == sum(row.frames for row in index)
        members = set()
        for shard in counts["shards"]:
            with tarfile.open(Path(data) / split / shard["name"]) as tar:
                members |= set(tar.getnames())
        suffix = "mjpeg" if dataset.codec == "mjpeg" else "ivf"
        assert {f"{row.key}.{kind}" for row in index for kind in (suffix, "json")} <= members
        assert not any(name.startswith("/") or ".." in name.split("/") for name in members)
    assert len(rows) == sum(counts["videos"] for counts in dataset.splits.values())
    assert about["rejected"] == len(rejected(data))
    return rows


def brief(data):
    """Classes by name, and frames, of each video, by split and key."""
    classes = read_dataset(Path(data)).classes
    return {key: ("|".join(classes[label] for label in row.labels), row.frames) for key, row in taken(data).items()}


def about(data):
    """dataset.json."""
    return json.loads((Path(data) / "dataset.json").read_text(encoding="utf-8"))


def fps(row):
    return Fraction(row.fps_num, row.fps_den)
