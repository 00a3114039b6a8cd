import shutil

import pytest

from preprocess.errors import DataError
from preprocess.index import read_dataset, shard_name
from preprocess.rebuild import rebuild
from preprocess.shard_tar import TarReader, header_of
from tests.preprocess.damage import flip, keys_by_byte, rewrite
from tests.preprocess.test_run import tree


def without_shards(data):
    return [path for path in data.rglob("*") if path.is_file() and path.suffix != ".tar"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x" * 999)]
)
def test_everything_but_the_shards_is_rebuilt(small, copy, spoil, workers):
    assert len(without_shards(copy)) == 4
    for path in without_shards(copy):
        spoil(path)
    shards = []
    rebuilt = rebuild(copy, workers, lambda *counts: shards.append(counts))
    assert tree(copy) == tree(small)
    assert shards == [(i + 1, rebuilt.shards) for i in range(rebuilt.shards)]
    assert rebuilt.videos == {split: about["videos"] for split, about in read_dataset(small).splits.items()}
    assert rebuilt.size == sum(path.stat().st_size for path in small.rglob("*.tar"))


def test_nothing_changes_where_nothing_is_wrong(small, copy):
    rebuild(copy)
    assert tree(copy) == tree(small)


def test_ivf_members(vp9, tmp_path):
    data = shutil.copytree(vp9, tmp_path / "data")
    assert rebuild(data).videos == {"train": 2}
    row = read_dataset(data).split("train")[0]
    member = (data / "train" / shard_name(0)).read_bytes()[row.offset : row.offset + row.size]
    at = 32
    for size in row.packet_bytes.tolist():
        assert int.from_bytes(member[at : at + 4], "little") == size
        at += 12 + size
    assert at == row.size
    assert row.packet_back.tolist() == [0, 1, 2, 1, 4, 1, 2, 1] * 2 + [0, 1, 2, 1]
    assert tree(data) == tree(vp9)


def refused(data, message):
    before = tree(data)
    with pytest.raises(DataError, match=message) as caught:
        rebuild(data)
    assert len(str(caught.value).splitlines()) == 1
    assert tree(data) == before


def test_damage_is_refused_with_shard_and_key(copy):
    tar = copy / "train" / shard_name(1)
    for begin, end, _ in list(keys_by_byte(tar)):
        for at in (begin, begin + 130, end - 1):
            flip(tar, at, 1)
            refused(copy, f"train/{tar.name}: .* damaged.* restore that file")
            flip(tar, at, 1)
    for row in read_dataset(copy).split("train"):
        if row.shard == 1:
            for at in (row.offset, row.offset + row.size - 1, row.offset + row.size // 2):
                flip(tar, at)
                refused(
                    copy, f"train/{tar.name}: video '{row.key}': its packets or its description are not those that .*"
                )
                flip(tar, at)


def test_shard_that_breaks_off_or_goes_on(copy):
    tar = copy / "train" / shard_name(0)
    content = tar.read_bytes()
    for length in range(0, len(content), 499):
        tar.write_bytes(content[:length])
        refused(copy, f"train/{tar.name}: ")
    tar.write_bytes(content + bytes(512))
    refused(copy, f"512 bytes follow the end of the archive, at byte {len(content)}")


def test_shard_that_is_missing(copy):
    shards = len(list((copy / "train").glob("*.tar")))
    (copy / "train" / shard_name(shards - 1)).unlink()
    refused(copy, rf"shard-{shards - 1:05d}\.tar is missing: of {shards} shards {shards - 1} are there")


def test_split_that_is_missing(copy):
    shutil.rmtree(copy / "val")
    refused(copy, "val holds no shards, but .* names this split")


def test_shard_of_another_dataset(copy):
    tar = copy / "val" / shard_name(0)
    rewrite(tar, lambda name, content: content.replace(b'"quality": 12', b'"quality": 13'))
    refused(copy, f"{tar} is of another dataset than ")


def test_shard_in_the_place_of_another(copy):
    shutil.copyfile(copy / "train" / shard_name(0), copy / "train" / shard_name(1))
    refused(copy, f"train/{shard_name(1)}: the shard's description is damaged")


@pytest.mark.parametrize(
    ("old", "new", "signed", "message"),
    [
        (b'"frames": 12', b'"frames": 11', True, "packets do not make 11 frames"),
        (b'"key": "a/', b'"key": "b/', True, "its description is of another video"),
        (b'"labels": [0]', b'"labels": [1]', False, r"not those that were written \(CRC-32\)"),
        (b'"crc32": ', b'"crc32": 1', False, r"not those that were written \(CRC-32\)"),
        (b'"labels": [', b'"labels": [4294967296, ', True, "its description is damaged"),
        (b'"labels": [0]', b'"labels": 3', True, "its description is damaged"),
        (b'"end": ', b'"end":  ', True, "its description is damaged"),
        (b'"width": ', b'"width2": ', True, "its description is damaged"),
        (b"{", b"[", False, "its description is damaged"),
    ],
)
def test_description_that_is_not_its_videos(copy, old, new, signed, message):
    done = []

    def change(name, content):
        if name.startswith("a/") and name.endswith(".json") and old in content and not done:
            done.append(name.removesuffix(".json"))
            return content.replace(old, new)
        return content

    for tar in sorted(copy.rglob("*.tar")):
        rewrite(tar, change, signed)
        if done:
            break
    refused(copy, f"{tar.name}: video '{done[0]}': .*{message}")


def test_packets_that_are_no_jpegs_are_refused(copy):
    """Whole by its checksums, but not what v4d writes."""
    tar = copy / "train" / shard_name(0)
    rewrite(tar, lambda name, content: bytes(len(content)) if name.endswith(".mjpeg") else content, signed=True)
    refused(copy, "no JPEG: starts with 0000")


def test_first_member_of_another_name(copy):
    tar = copy / "train" / shard_name(0)
    with open(tar, "r+b") as file:
        _, size = TarReader(file).member()
        file.seek(0)
        file.write(header_of("__v4d__/other.json", size))
    refused(copy, "the shard's description is damaged")


def test_other_format(copy):
    for tar in copy.rglob("*.tar"):
        rewrite(tar, lambda name, content: content.replace(b'"format": 1', b'"format": 9'))
    refused(copy, "the shard has format 9, this version of v4d reads 1")


def test_unfinished_dataset_is_refused(copy):
    (copy / ".building").mkdir()
    refused(copy, "is not finished: run the same v4d preprocess command again")


def test_folder_without_shards(tmp_path):
    refused(tmp_path, "holds no shards: run v4d preprocess")
