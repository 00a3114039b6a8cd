import io
import json

import pytest
from rich.console import Console

from preprocess import progress
from preprocess.progress import JsonProgress, PreprocessProgress


@pytest.fixture
def every_video(monkeypatch):
    """Lines and events are written for each video."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_EVENTS", -1.0)


def console(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False, markup=False)


def test_events(every_video):
    lines = []
    events = JsonProgress(lines.append)
    events.start(5, 2)
    for taken in (True, False, True):
        events.video(taken)
    events.event("summary", videos={"train": 4})
    said = [json.loads(line) for line in lines]
    rates = [event.pop("videos_per_second") for event in said if event["event"] == "progress"]
    assert said == [
        {"event": "start", "videos": 5, "done": 2},
        {"event": "progress", "videos": 5, "done": 3, "rejected": 0},
        {"event": "progress", "videos": 5, "done": 4, "rejected": 1},
        {"event": "progress", "videos": 5, "done": 5, "rejected": 1},
        {"event": "summary", "videos": {"train": 4}},
    ]
    assert all(rate > 0 for rate in rates)


def test_few_events_of_many_videos():
    lines = []
    events = JsonProgress(lines.append)
    events.start(1000, 0)
    for _ in range(1000):
        events.video(True)
    assert len(lines) < 20


@pytest.mark.parametrize("name", ["ü", "漢字", "a\nb", '"', "\u2028", "\udcff"])
def test_an_event_is_one_line_of_ascii(name):
    lines = []
    JsonProgress(lines.append).event("summary", notes=[name])
    assert json.loads(lines[0]) == {"event": "summary", "notes": [name]}
    assert len(lines[0].splitlines()) == 1
    assert lines[0].isascii()


def test_lines_in_a_log(every_video):
    log = console()
    with PreprocessProgress(log, "videos") as shown:
        shown.start(5, 2)
        shown.video(True)
        shown.video(False)
    first, *then = log.file.getvalue().splitlines()
    assert first == "5 videos, 2 of them done by an earlier run"
    assert [line.partition(" ")[0] for line in then] == ["3/5", "4/5"]
    assert " 1 rejected, " in then[1]
    assert "\x1b" not in log.file.getvalue()


def test_a_short_run_is_one_line_in_a_log():
    log = console()
    with PreprocessProgress(log, "videos") as shown:
        shown.start(3, 0)
        for _ in range(3):
            shown.video(True)
    assert log.file.getvalue() == "3 videos\n"


def test_a_bar_on_a_terminal(every_video):
    terminal = console(terminal=True)
    with PreprocessProgress(terminal, "videos") as shown:
        shown.start(3, 1)
        shown.video(True)
        shown.video(False)
    last = [line for line in terminal.file.getvalue().splitlines() if "/3" in line][-1]
    assert "3/3" in last
    assert "1 rejected" in last
    assert "0 s left" not in terminal.file.getvalue()


def test_the_bar_is_gone_after_an_error():
    terminal = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), PreprocessProgress(terminal, "videos") as shown:
        shown.start(3, 1)
        raise KeyboardInterrupt
    # The cursor is shown again.
    assert terminal.file.getvalue().rindex("\x1b[?25h") > terminal.file.getvalue().rindex("\x1b[?25l")
