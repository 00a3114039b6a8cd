"""The trackers of a run: what they get, and that training goes on without them."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from preprocess.errors import UsageError
from v4d.runs import read_record
from v4d.trackers import TRACKERS, start_trackers
from v4d.train import train


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Trackers that write into a folder and know no account."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    for name in TRACKERS:
        pytest.importorskip(name)


def test_wandb_and_mlflow_get_the_curves(dataset, recipe, tmp_path, offline):
    from mlflow import MlflowClient

    run = tmp_path / "run"
    train(recipe, dataset.root, run, gpus=0, track=("wandb", "mlflow"))
    losses = [record["loss"] for record in map(json.loads, (run / "log.jsonl").open()) if "loss" in record]
    ids = json.loads((run / "trackers.json").read_text())
    client = MlflowClient()
    known = client.get_run(ids["mlflow"])
    assert (known.info.run_name, known.info.status) == ("run", "FINISHED")
    assert known.data.params["recipe.model.base_width"] == "4"
    history = sorted(client.get_metric_history(ids["mlflow"], "train/loss"), key=lambda metric: metric.step)
    assert [metric.value for metric in history] == pytest.approx(losses)
    assert {"train/grad_norm", "train/data_wait", "val/top1"} <= known.data.metrics.keys()
    assert [file.path for file in client.list_artifacts(ids["mlflow"])] == ["first_batch-0.png"]
    (written,) = run.glob(f"wandb/offline-run-*-{ids['wandb']}/*.wandb")
    content = written.read_bytes()
    assert content.count(b"train/loss") >= 12
    assert all(json.dumps(loss).encode() in content for loss in losses)
    assert list(written.parent.glob("files/media/images/first_batch_0_*.png"))


def test_a_run_that_goes_on_is_the_same_one_there(tmp_path, recipe, offline):
    from mlflow import MlflowClient

    for step in (0, 5):
        (mlflow,) = start_trackers(["mlflow"], tmp_path, recipe, tmp_path, print)
        mlflow.figures([(step, {"train/loss": 1.0})])
        mlflow.close(failed=step == 0)
    (experiment,) = MlflowClient().search_experiments(filter_string="name = 'v4d'")
    (known,) = MlflowClient().search_runs([experiment.experiment_id])
    assert known.info.status == "FINISHED"
    assert [metric.step for metric in MlflowClient().get_metric_history(known.info.run_id, "train/loss")] == [0, 5]


def test_a_tracker_that_fails_is_spoken_of_once_and_training_goes_on(tmp_path, recipe, offline):
    said = []
    (mlflow,) = start_trackers(["mlflow"], tmp_path, recipe, tmp_path, said.append)
    for step in range(3):
        mlflow.figures([(step, {"../outside": 1.0})])
    mlflow.figures([(3, {"train/loss": 2.0})])
    mlflow.close(failed=False)
    assert len(said) == 1
    assert said[0].startswith("--track mlflow: ")
    assert said[0].endswith("; training goes on")
    from mlflow import MlflowClient

    run_id = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    assert MlflowClient().get_run(run_id).data.metrics == {"train/loss": 2.0}


def test_a_tracker_that_is_not_there_is_one_line(tmp_path, recipe, offline, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"^--track wandb: wandb is not installed: pip install wandb$"):
        start_trackers(["wandb"], tmp_path, recipe, tmp_path, print)
    assert not (tmp_path / "trackers.json").exists()


def test_a_tracker_that_does_not_take_the_run_is_one_line(dataset, tmp_path, offline, monkeypatch):
    """Nobody is logged in; in a process of its own, since wandb reads its mode once."""
    monkeypatch.setenv("WANDB_MODE", "online")
    command = [sys.executable, "-m", "cli", "train", "--gpus", "0", "--data", dataset.root, "--recipe", "demo"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "run", "--track", "wandb"], capture_output=True, text=True, input=""
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("v4d: --track wandb: No API key configured")


def test_a_run_goes_on_there_with_a_dataset_that_has_moved(tmp_path, recipe, offline):
    from mlflow import MlflowClient

    said = []
    for folder in ("here", "there"):
        (mlflow,) = start_trackers(["mlflow"], tmp_path, recipe, tmp_path / folder, said.append)
        mlflow.close(failed=False)
    assert not said
    known = MlflowClient().get_run(json.loads((tmp_path / "trackers.json").read_text())["mlflow"])
    assert known.data.params["dataset"] == str(tmp_path / "here")


def test_a_server_that_is_down_stops_a_new_run_and_none_that_goes_on(tmp_path, recipe, offline, monkeypatch):
    said = []
    (mlflow,) = start_trackers(["mlflow"], tmp_path / "old", recipe, tmp_path, said.append)
    mlflow.close(failed=True)
    ids = (tmp_path / "old" / "trackers.json").read_text()
    with socket.socket() as bound:
        # Nobody listens.
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{bound.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UsageError, match=r"^--track mlflow: "):
            start_trackers(["mlflow"], tmp_path / "new", recipe, tmp_path, said.append)
        assert not said
        assert start_trackers(["mlflow"], tmp_path / "old", recipe, tmp_path, said.append) == []
    (line,) = said
    assert line.startswith("--track mlflow: ")
    assert line.endswith("; training goes on without it")
    assert (tmp_path / "old" / "trackers.json").read_text() == ids


class Busy(BaseHTTPRequestHandler):
    """Always another time."""

    asked = 0

    def do_POST(self):
        Busy.asked += 1
        self.send_response(503)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
        """Not to standard error."""


def test_a_server_that_is_down_is_tried_a_few_times_only_before_a_run_goes_on(tmp_path, recipe, offline, monkeypatch):
    said = []
    (tmp_path / "trackers.json").write_text('{"mlflow": "one"}')
    for name in ("BACKOFF_FACTOR", "BACKOFF_JITTER"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        before = dict(os.environ)
        for most in ("", "1"):
            Busy.asked = 0
            if most:
                monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", most)
            assert start_trackers(["mlflow"], tmp_path, recipe, tmp_path, said.append) == []
            # What the environment says holds.
            assert Busy.asked == 1 + int(most or "3")
            assert most or dict(os.environ) == before
        server.shutdown()
    assert [line.startswith("--track mlflow: ") for line in said] == [True, True]


GOES_ON = """
from pathlib import Path
from v4d import trackers
from v4d.recipes.files import load_recipe

trackers._PATIENCE_S = 2.0
if __name__ == "__main__":
    assert trackers.start_trackers(["wandb"], Path(), load_recipe("demo"), Path(), print) == []
"""


def test_wandb_is_waited_for_as_long_as_others(tmp_path, offline):
    (tmp_path / "trackers.json").write_text('{"wandb": "one"}')
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        known = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": "a" * 40}
        here = {"PYTHONPATH": str(Path(__file__).parents[2])}
        (tmp_path / "goes_on.py").write_text(GOES_ON)
        done = subprocess.run(
            [sys.executable, "goes_on.py"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **known, **here},
            # wandb's own patience is 90 s.
            timeout=75,
        )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^--track wandb: .*; training goes on without it$", done.stdout, re.M)


def test_a_run_goes_on_without_its_trackers_if_asked_to(dataset, recipe, tmp_path, offline):
    run = tmp_path / "run"
    train(recipe, dataset.root, run, gpus=0, track=("mlflow",))
    assert read_record(run).track == ("mlflow",)
    both = CliRunner().invoke(main, ["train", "--resume", str(run), "--track", "none", "--track", "mlflow"])
    assert (both.exit_code, read_record(run).track) == (2, ("mlflow",))
    assert CliRunner().invoke(main, ["train", "--resume", str(run)]).exit_code == 0
    assert read_record(run).track == ("mlflow",)
    assert CliRunner().invoke(main, ["train", "--resume", str(run), "--track", "none"]).exit_code == 0
    assert read_record(run).track == ()


HANGS = """
import threading
from v4d import trackers

class Hangs:
    def figures(self, of_steps):
        threading.Event().wait()

trackers._PATIENCE_S = 0.1
behind = trackers._Behind("hangs", Hangs(), print)
behind.figures([(0, {"train/loss": 1.0})])
behind.close(failed=False)
"""


def test_python_ends_without_a_tracker_that_hangs():
    # For ever: only the timeout would end it.
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "--track hangs: it has not taken all in 0.1 s: the rest is given up; training goes on\n"
