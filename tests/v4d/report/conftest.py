"""A run that was trained and evaluated, runs with the scores one wishes for, and a browser."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from tests.v4d.conftest import TINY
from v4d.evaluation.scores_file import write_scores
from v4d.recipes.files import load_recipe
from v4d.train import train

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def v4d(*arguments, code=0):
    """Run a command; what it printed."""
    result = CliRunner(env={"COLUMNS": "250"}).invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="session")
def evaluated(dataset, tmp_path_factory):
    """A run of two epochs of 6 steps, with a validation after each, and two evaluations. Not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "tiny run"
    settings = (*TINY, "optim.epochs=2", "train.checkpoint_every=6", "train.validate_every=1")
    assert train(load_recipe("demo", settings), dataset.root, run, gpus=0)
    for units in (4, 5):
        v4d("eval", run, "--u-infer", units, "--gpus", "0")
    return run


@pytest.fixture
def copy(evaluated, tmp_path):
    """A copy of that run, to be changed."""
    return shutil.copytree(evaluated, tmp_path / "copy")


@pytest.fixture
def with_scores(evaluated, tmp_path):
    """A function: makes a run of that one's record and log with one evaluation of these scores, (N, K)."""

    def make(scores_NK, labels, names, keys=None, **about):
        run = tmp_path / "made"
        run.mkdir(exist_ok=True)
        for file in ("run.json", "log.jsonl"):
            shutil.copy(evaluated / file, run)
        number = len(list(run.glob("eval-*")))
        known = {"v4d": "0", "checkpoint": "gone", "step": 1, "dataset": "another", "split": "val", "scores": "softmax"}
        labels = [(int(label),) if np.ndim(label) == 0 else tuple(label) for label in labels]
        labels = [tuple(one for one in of_video if one >= 0) for of_video in labels]
        keys = keys or [f"video {i}" for i in range(len(labels))]
        (run / f"eval-{number}").mkdir()
        known |= {"class_names": list(names), "crops": 3, "u_infer": 4 + number, **about}
        write_scores(run / f"eval-{number}" / "scores.arrow", keys, labels, list(scores_NK.astype(np.float32)), known)
        return run

    return make


def random_scores(videos, classes, seed=0):
    """Shares of classes, (N, K), and labels that half of them are right about."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, videos)
    logits = draws.normal(size=(videos, classes))
    logits[np.arange(videos), np.where(draws.random(videos) < 0.5, labels, draws.integers(0, classes, videos))] += 4
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True), labels


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra 'test')")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as engine:
        yield engine.chromium.launch(executable_path=program)
