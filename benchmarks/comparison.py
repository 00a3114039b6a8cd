"""Our loader and other routes on the same work: measured by turns, and what came out as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from statistics import median

import numpy as np
from rich.table import Column, Table

from benchmarks.turns import Route, RouteFailed, Turn, Work, take_turn
from v4d.beside_model import SlowDown

# What ``About.device`` says where no GPU was measured.
CPU = "the CPU"
# The extra v4d[bench] has them all; these are the names they go by on the package index.
PACKAGES = {"decord": "decord", "torchcodec": "torchcodec", "cv2": "opencv-python-headless", "av": "av"}
# Other frames, another crop or swapped colours are below it; another encoding of the same pictures is above.
_SAME_PICTURES = 20.0


@dataclass(frozen=True)
class Contender:
    """A route in the ways it can run, the best of which counts, and mean bytes stored per video.

    ``decoded_per_used`` and ``bytes_read`` (per video) are given where they are known beforehand. ``problem`` says why
    the route cannot run here.
    """

    name: str
    ways: Mapping[str, Route]
    bytes_stored: float
    decoded_per_used: float | None = None
    bytes_read: float | None = None
    ours: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Result:
    """What a route came to: medians over its turns; ``rounds`` are the videos/s of each.

    ``psnr_db`` is how near its pictures are to those of our first route, in decibels (median over the pictures of two
    videos). ``ratios`` says how many times faster each of our routes is, by name. Where there is a ``problem`` the
    figures are None.
    """

    route: str
    ours: bool
    way: str = ""
    problem: str = ""
    videos_per_s: float | None = None
    used_frames_per_s: float | None = None
    cpu_ms_per_video: float | None = None
    decoded_per_used: float | None = None
    bytes_read_per_video: float | None = None
    bytes_stored_per_video: float | None = None
    psnr_db: float | None = None
    rounds: list[float] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)


def missing_packages(route: Route) -> str:
    """What to install for a route, or "" if all is there."""
    names = [module.partition(".")[0] for module in route.needs]
    missing = [PACKAGES[name] for name in names if find_spec(name) is None]
    return f"not installed: pip install {' '.join(missing)}" if missing else ""


class StoppedEarly(KeyboardInterrupt):
    """Somebody stopped a comparison. ``results`` are those of the turns until then, of every route."""

    def __init__(self, results: Sequence[Result]) -> None:
        super().__init__("stopped")
        self.results = results


@dataclass
class _Entry:
    """A contender and its turns so far; ``trial`` is the one by which its way was chosen."""

    of: Contender
    way: str = ""
    problem: str = ""
    psnr: float | None = None
    trial: Turn | None = None
    turns: list[Turn] = field(default_factory=list)

    def take(self, work: Work, way: str) -> Turn | None:
        try:
            return take_turn(self.of.ways[way], work)
        except RouteFailed as why:
            self.problem = str(why)
            return None


def measure(
    contenders: Sequence[Contender], work: Work, repeats: int, on_turn: Callable[[str], None] = lambda name: None
) -> list[Result]:
    """Measure routes by turns, ``repeats`` of each; the first of them must be ours.

    Before that each way of each route has a turn: it shows which way is the best, and that the pictures are the same.
    Raises RouteFailed if our own route does not run, StoppedEarly on Ctrl-C once our own route has had a turn: then a
    route that has had no other turn has the figures of this first one.
    """
    entries = [_Entry(contender, problem=contender.problem) for contender in contenders]
    try:
        _try_ways(entries, work, on_turn)
        for _ in range(repeats):
            for entry in entries:
                if not entry.problem:
                    on_turn(entry.of.name)
                    turn = entry.take(work, entry.way)
                    entry.turns += [turn] if turn else []
                    _fail_of_ours(entry)
    except KeyboardInterrupt:
        if not entries[0].trial:
            raise
        for entry in entries:
            entry.turns = entry.turns or ([entry.trial] if entry.trial else [])
            entry.problem = entry.problem or ("" if entry.turns else "stopped before it had a turn")
        raise StoppedEarly(_results(entries, work)) from None
    return _results(entries, work)


def _try_ways(entries: Sequence[_Entry], work: Work, on_turn: Callable[[str], None]) -> None:
    """Leave in each entry its best way, or the problem of the last way if none runs or its pictures are others."""
    reference: np.ndarray | None = None
    for entry in entries:
        _choose_way(entry, work, on_turn)
        _fail_of_ours(entry)
        if entry.trial:
            reference = entry.trial.first if reference is None else reference
            entry.psnr = psnr(entry.trial.first, reference)
            if entry.psnr < _SAME_PICTURES:
                entry.problem = f"its pictures are not those of {entries[0].of.name}: {entry.psnr:.1f} dB"


def _fail_of_ours(entry: _Entry) -> None:
    if entry.of.ours and entry.problem:
        raise RouteFailed(f"{entry.of.name}: {entry.problem}")


def _choose_way(entry: _Entry, work: Work, on_turn: Callable[[str], None]) -> None:
    if entry.problem:
        return
    for way in entry.of.ways:
        on_turn(entry.of.name)
        turn = entry.take(work, way)
        if turn and (not entry.trial or turn.videos_per_s > entry.trial.videos_per_s):
            entry.way, entry.trial = way, turn
    if entry.trial:
        entry.problem = ""


def psnr(pictures: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal to noise ratio in decibels, median over pictures (pictures, H, W, C), at most 100."""
    error = ((pictures.astype(np.float32) - reference) ** 2).mean(axis=(1, 2, 3))
    return float(np.median(10 * np.log10(255**2 / np.maximum(error, 255**2 * 1e-10))))


def _results(entries: Sequence[_Entry], work: Work) -> list[Result]:
    ours = {entry.of.name: _rate(entry) for entry in entries if entry.of.ours and entry.turns}
    return [_result(entry, work, ours) for entry in entries]


def _rate(entry: _Entry) -> float:
    return median(turn.videos_per_s for turn in entry.turns)


def _result(entry: _Entry, work: Work, ours: dict[str, float]) -> Result:
    of, turns = entry.of, entry.turns
    if entry.problem or not turns:
        return Result(of.name, of.ours, entry.way, entry.problem, psnr_db=entry.psnr)
    rate, used = _rate(entry), work.sampling.units * work.sampling.frames
    decoded = of.decoded_per_used
    if decoded is None and turns[0].decoded is not None:
        decoded = median((turn.decoded or 0) / turn.videos for turn in turns) / used
    read = of.bytes_read
    return Result(
        route=of.name,
        ours=of.ours,
        way=entry.way,
        videos_per_s=rate,
        used_frames_per_s=rate * used,
        cpu_ms_per_video=1e3 * median(turn.cpu_seconds / turn.videos for turn in turns),
        decoded_per_used=decoded,
        bytes_read_per_video=median(turn.bytes_read / turn.videos for turn in turns) if read is None else read,
        bytes_stored_per_video=of.bytes_stored,
        # The first route is what the others are held against.
        psnr_db=None if of.name == next(iter(ours)) else entry.psnr,
        rounds=[turn.videos_per_s for turn in turns],
        ratios={} if of.ours else {name: of_ours / rate for name, of_ours in ours.items()},
    )


def as_table(result: Result) -> Table:
    """The figures of one route, one on each line."""
    table = Table(show_header=False)
    rounds = ", ".join(f"{rate:.1f}" for rate in result.rounds)
    table.add_row("videos/s", f"{result.videos_per_s:.1f} (turns: {rounds})")
    table.add_row("used frames/s", f"{result.used_frames_per_s:,.0f}")
    for name, value in _costs(result).items():
        table.add_row(name, value)
    return table


def as_comparison(results: Sequence[Result]) -> Table:
    """The figures of several routes side by side, and how many times faster ours are."""
    ours = [result for result in results if result.ours]
    times = (Column(f"{of.route.rpartition(', ')[2]} is faster by", justify="right", max_width=12) for of in ours)
    columns = [Column("route", no_wrap=True), Column("in", no_wrap=True), Column("videos/s", justify="right"), *times]
    costs = (Column(name, justify="right", min_width=len(max(name.split(), key=len))) for name in _costs(ours[0]))
    table = Table(*columns, *costs, Column("alike, dB", justify="right", min_width=6))
    for result in results:
        if result.problem:
            table.add_row(result.route, "-")
            continue
        ratios = [f"{result.ratios[of.route]:.2f}x" if of.route in result.ratios else "" for of in ours]
        alike = _shown(result.psnr_db, 1)
        table.add_row(
            result.route, result.way, _shown(result.videos_per_s, 1), *ratios, *_costs(result).values(), alike
        )
    return table


def problems(results: Sequence[Result]) -> list[str]:
    """A line for each route that was not measured."""
    return [f"{result.route}: {result.problem}" for result in results if result.problem]


def _costs(result: Result) -> dict[str, str]:
    return {
        "CPU ms per video": _shown(result.cpu_ms_per_video, 1),
        "decoded per used frame": _shown(result.decoded_per_used, 2),
        "KB read per video": _shown(_kilo(result.bytes_read_per_video), 0),
        "KB stored per video": _shown(_kilo(result.bytes_stored_per_video), 0),
    }


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _kilo(value: float | None) -> float | None:
    return None if value is None else value / 1e3


@dataclass(frozen=True)
class About:
    """What is measured, and on what."""

    data: str
    codec: str
    split: str
    videos: int
    device: str
    cores: int
    threads: int
    batch: int
    units: int
    frames: int
    stride: int
    crop: int
    seconds: float
    repeats: int

    def line(self) -> str:
        """The same for people."""
        work = f"{self.units}x{self.frames} frames at stride {self.stride}, crops to {self.crop}"
        where = f"{self.device}, {self.cores} cores, {self.threads} threads"
        return (
            f"{self.data}, {self.split}: {self.videos:,} videos, {self.codec}; {work}, batches of {self.batch}; "
            f"on {where}; median of {self.repeats} turns of {self.seconds:g} s"
        )


def as_json_document(about: About, results: Sequence[Result], with_model: SlowDown | None) -> str:
    """What was measured how, and every figure."""
    document = {
        **asdict(about),
        "routes": [asdict(result) for result in results],
        "with_model": asdict(with_model) if with_model else None,
    }
    return json.dumps(document, ensure_ascii=False, indent=2)
