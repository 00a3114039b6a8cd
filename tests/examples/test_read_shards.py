"""The reader that knows docs/shards.md alone reads what this project's own reader does."""

import ast
import io
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.read_shards import needed, read_video
from pipelines.packets import PacketReader, needed_packets
from pipelines.shard_store import MappedShards
from preprocess.index import packet_offsets, read_dataset
from preprocess.shard_reader import ShardFile, read_shard

EXAMPLE = Path(__file__).parents[2] / "examples" / "read_shards.py"


def test_it_is_short_and_knows_nothing_of_the_project():
    tree = ast.parse(EXAMPLE.read_text())
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    beside = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(EXAMPLE.read_text()).readline)
    code = {token.start[0] for token in tokens if token.type not in beside} - docstrings
    imports = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    is_import = {node.lineno for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert len(code - is_import) <= 30
    assert imports <= sys.stdlib_module_names | {"pyarrow", "PIL"}


@pytest.mark.parametrize("made", ["small", "vp9"])
def test_it_reads_what_our_reader_reads(made, request):
    dataset = read_dataset(request.getfixturevalue(made))
    for split, about in dataset.splits.items():
        parts = [read_shard(ShardFile(dataset.root, split, number)).part for number in range(len(about["shards"]))]
        rows = [row for part in parts for row in part.rows.to_pylist()]
        reader = PacketReader(MappedShards(dataset.root / split), dataset.codec)
        index = dataset.split(split)
        assert len(rows) == about["videos"]
        for number, expected in enumerate(rows):
            codec, row, packets = read_video(dataset.root, split, number)
            assert codec == dataset.codec
            assert row == expected
            every = np.arange(row["frames"])
            ours = reader.read(reader.announce(index[number], every))
            content = b"".join(np.asarray(packet).tobytes() for packet in ours.packets)
            assert b"".join(packets) == content
            for frame in range(row["frames"]):
                assert needed(row, frame) == needed_packets(index[number].packet_back, [frame])


def test_it_sees_damage(small, tmp_path):
    data = shutil.copytree(small, tmp_path / "copy")
    row = read_dataset(data).split("train")[0]
    at = row.offset + int(packet_offsets("mjpeg", row.packet_bytes)[1]) + 20
    with open(data / "train" / f"shard-{row.shard:05d}.tar", "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ValueError, match=f"packet 1 of {row.key} is damaged"):
        read_video(data, "train", 0)


def test_it_runs_as_it_says_and_decodes_a_picture(small, tmp_path):
    line = [sys.executable, "-I", EXAMPLE, small, "train", "0", tmp_path / "frame.png"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    dataset = read_dataset(small)
    row = dataset.split("train")[0]
    assert done.stdout == f"{row.key}: {row.frames} frames of mjpeg; the last one needs [{row.frames - 1}]\n"
    assert Image.open(tmp_path / "frame.png").size == dataset.size
