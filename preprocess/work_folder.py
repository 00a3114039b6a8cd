"""What the commands use where nothing is named: data/NAME/videos in, shards/NAME out, in the folder they run in."""

from __future__ import annotations

import logging
from pathlib import Path

from preprocess.errors import UsageError

_LOG = logging.getLogger(__name__)
DATA, SHARDS = Path("data"), Path("shards")


def choose_videos() -> Path:
    """The one folder data/NAME/videos. Raises UsageError if there is none, or several, which it lists."""
    found = [path for path in DATA.glob("*/videos") if path.is_dir()]
    return _the_one(found, "folder of videos", "put them there", "--videos", f"{DATA}/NAME/videos")


def shards_of(videos: Path) -> Path:
    """Where the shards of a folder of videos go: shards/NAME for data/NAME/videos, and for any folder NAME."""
    resolved = videos.resolve()
    return SHARDS / (resolved.parent.name if resolved.name == "videos" else resolved.name)


def choose_dataset() -> Path:
    """The one dataset shards/NAME. Raises UsageError if there is none, or several, which it lists."""
    found = [path.parent for path in SHARDS.glob("*/dataset.json")]
    return _the_one(found, "dataset", "make one with v4d preprocess", "--data", f"{SHARDS}/NAME")


def _the_one(candidates: list[Path], what: str, advice: str, option: str, where: str) -> Path:
    if len(candidates) == 1:
        _LOG.info("%s: the only %s at %s; %s would name another", candidates[0], what, where, option)
        return candidates[0]
    if not candidates:
        raise UsageError(f"there is no {what} at {where}: {advice}, or name one with {option}")
    listed = ", ".join(str(path) for path in sorted(candidates))
    raise UsageError(f"there are {len(candidates)} at {where}, choose one with {option}: {listed}")
