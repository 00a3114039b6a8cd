"""The trainer: it learns, alone and with others, and says plainly what does not go together."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from pipelines import EvalLoader, TrainLoader
from preprocess.durable_files import held
from preprocess.errors import DataError, UsageError
from preprocess.index import as_record_batch, read_dataset, write_index
from v4d.checkpoint import checkpoints_in, load_checkpoint, load_weights
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe
from v4d.schedule import learning_rate
from v4d.train import TrainingError, train

SETTINGS = (
    "model.base_width=8",
    "train.global_batch=5",
    "optim.epochs=6",
    "train.checkpoint_every=2",
    "model.dropout=0.3",
)


def losses(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"], record["top1"], record["lr"]) for record in records if "loss" in record]


def command(dataset, run, *more):
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return [
        *(sys.executable, "-m", "cli", "train", "--gpus", "0", "--data", str(dataset.root), "--recipe", "demo"),
        *("--out", str(run), *sets, *more),
    ]


def bytes_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.005)


def test_several_processes_train_together(dataset, tmp_path):
    run = tmp_path / "run"
    sets = ["--set", "train.global_batch=10", "--set", "optim.epochs=2"]
    done = subprocess.run([*command(dataset, run, "--procs", "2"), *sets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # 24 videos in batches of 10: three steps an epoch, the last one padded.
    assert [step for step, *_ in losses(run)] == list(range(6))
    assert load_checkpoint(run).step == 6
    assert re.search(r"batches on their way: at most \d+ MB on cpu, in each process", done.stdout)


def test_a_process_that_fails_says_so_in_a_line(dataset, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset.root, damaged)
    for shard in (damaged / "train").glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:1000])
    copy = read_dataset(damaged)
    done = subprocess.run(
        [*command(copy, tmp_path / "run", "--procs", "2"), "--set", "train.global_batch=4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(r"^v4d: .*shard-0000\d\.tar.* is damaged: restore", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    # It is for the user to mend.
    assert "restart" not in done.stderr


def test_it_learns_what_it_is_shown(dataset, tmp_path):
    recipe = load_recipe(
        "demo", ("model.base_width=8", "train.global_batch=6", "optim.epochs=25", "optim.lr=0.03", "data.scales=[1.0]")
    )
    train(recipe, dataset.root, tmp_path / "run", gpus=0)
    first, last = losses(tmp_path / "run")[:4], losses(tmp_path / "run")[-4:]
    assert sum(loss for _, loss, *_ in last) < 0.6 * sum(loss for _, loss, *_ in first)


def test_a_finished_run_is_left_as_it_is(dataset, recipe, tmp_path):
    train(recipe, dataset.root, tmp_path, gpus=0)
    before = bytes_below(tmp_path)
    assert train(recipe, dataset.root, tmp_path, gpus=0)
    assert bytes_below(tmp_path) == before


def test_another_recipe_or_dataset_is_refused(dataset, recipe, tmp_path):
    run = tmp_path / "run"
    train(recipe, dataset.root, run, gpus=0)
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base_width": 8})})
    with pytest.raises(UsageError, match=r"another recipe \(differing: model\)"):
        train(other, dataset.root, run, gpus=0)
    changed = tmp_path / "changed"
    shutil.copytree(dataset.root, changed)
    content = json.loads((changed / "dataset.json").read_text())
    (changed / "dataset.json").write_text(json.dumps({**content, "rejected": 99}))
    with pytest.raises(DataError, match="begun on another dataset"):
        train(recipe, changed, run, gpus=0)


def test_a_loss_that_is_not_finite_stops_the_run(dataset, recipe, tmp_path):
    wild = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"lr": 1e30, "warmup_epochs": 0})})
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d+ \(learning rate .*\): lower optim.lr"):
        train(wild, dataset.root, tmp_path, gpus=0)


def test_validation_is_top1_of_the_checkpoint_on_the_centre_crop(dataset, recipe, tmp_path):
    train(recipe, dataset.root, tmp_path, gpus=0)
    (said,) = [r["val_top1"] for r in map(json.loads, (tmp_path / "log.jsonl").open()) if "val_top1" in r]
    checkpoint = load_checkpoint(tmp_path)
    model = V4D(recipe.model, 6).eval()
    load_weights(model, checkpoint, tmp_path)
    take = recipe.data.test_sampling(recipe.data.units)
    loader = EvalLoader(dataset, "val", take, global_batch=1, device=torch.device("cpu"))
    with torch.no_grad():
        hits = [model(batch.crops[1], take.units).argmax() == batch.labels_B for batch in loader]
    assert said == pytest.approx(sum(map(bool, hits)) / len(hits))


def test_validation_leaves_training_as_it_was(dataset, recipe, tmp_path):
    often = recipe.model_copy(update={"train": recipe.train.model_copy(update={"validate_every": 1})})
    train(recipe, dataset.root, tmp_path / "seldom", gpus=0)
    train(often, dataset.root, tmp_path / "often", gpus=0)
    assert losses(tmp_path / "often") == losses(tmp_path / "seldom")


def steps_of_two(recipe, model, optimizer, loader, steps):
    """The losses that two processes have, each with its half of a batch, from the steps of ``loader`` on."""
    take, losses = recipe.data.train_sampling(), []
    batches = iter(loader)
    for step in steps:
        batch = next(batches)
        halves = zip(batch.x.chunk(2), batch.labels_B.chunk(2), strict=True)
        valid = loader.videos_in(step)
        loss = sum(
            F.cross_entropy(model(x, take.units), labels, ignore_index=-1, reduction="sum") for x, labels in halves
        )
        loss = loss / valid
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, step, loader.steps_per_epoch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def begun(recipe, dataset):
    """Network, optimizer and loader of a run before its first step."""
    torch.manual_seed(recipe.train.seed)
    model = V4D(recipe.model, 6).to(memory_format=torch.channels_last_3d).train()
    optim = recipe.optim
    optimizer = torch.optim.SGD(
        model.parameters(), optim.lr, optim.momentum, weight_decay=optim.weight_decay, nesterov=optim.nesterov
    )
    take, options = recipe.data.train_sampling(), {"seed": 0, "device": torch.device("cpu")}
    return model, optimizer, TrainLoader(dataset, "train", take, global_batch=recipe.train.global_batch, **options)


def test_two_processes_take_the_steps_of_their_halves_together(dataset, tmp_path):
    run, settings = tmp_path / "run", (*SETTINGS, "model.dropout=0.0", "train.global_batch=8", "optim.epochs=1")
    sets = [part for setting in settings for part in ("--set", setting)]
    subprocess.run([*command(dataset, run, "--procs", "2"), *sets], check=True, capture_output=True)
    recipe = load_recipe("demo", settings)
    expected = steps_of_two(recipe, *begun(recipe, dataset), range(3))
    assert [loss for _, loss, *_ in losses(run)] == pytest.approx(expected, rel=1e-3)


def test_what_one_process_began_two_go_on_with(dataset, tmp_path):
    run, settings = tmp_path / "run", (*SETTINGS, "model.dropout=0.0", "train.global_batch=10", "optim.lr=0.01")
    sets = [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen([*command(dataset, run), *sets], stderr=subprocess.PIPE)
    wait_for(lambda: checkpoints_in(run), process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0
    checkpoint = load_checkpoint(run)
    # Three steps an epoch, the last of them filled up.
    assert checkpoint.loader["epoch"] * 3 + checkpoint.loader["step"] == checkpoint.step < 18
    done = subprocess.run([*command(dataset, run, "--procs", "2"), *sets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"going on at step {checkpoint.step} of 18" in done.stdout
    assert [step for step, *_ in losses(run)] == list(range(18))

    recipe = load_recipe("demo", settings)
    model, optimizer, loader = begun(recipe, dataset)
    load_weights(model, checkpoint, run)
    optimizer.load_state_dict(checkpoint.optimizer)
    loader.load_state_dict(checkpoint.loader)
    expected = steps_of_two(recipe, model, optimizer, loader, range(checkpoint.step, min(checkpoint.step + 4, 18)))
    found = [loss for _, loss, *_ in losses(run)][checkpoint.step :][: len(expected)]
    assert found == pytest.approx(expected, rel=1e-3)


def test_keyframe_starts_are_part_of_the_recipe(dataset, tmp_path):
    run = tmp_path / "run"
    subprocess.run(
        [*command(dataset, run, "--keyframe-starts"), "--set", "optim.epochs=1"], check=True, capture_output=True
    )
    checkpoint = load_checkpoint(run)
    assert checkpoint.recipe.data.keyframe_starts
    assert checkpoint.loader["sampling"]["keyframe_starts"]
    other = subprocess.run([*command(dataset, run), "--set", "optim.epochs=1"], capture_output=True, text=True)
    assert other.returncode == 2
    assert "begun with another recipe (differing: data)" in other.stderr


def with_splits(dataset, to, **videos):
    """A dataset whose dataset.json and indices say that its splits hold as many videos."""
    shutil.copytree(dataset.root, to)
    content = json.loads((to / "dataset.json").read_text())
    for split, count in videos.items():
        rows = list(dataset.split(split))[:count]
        content["splits"][split]["videos"] = write_index(to / split / "index.arrow", [as_record_batch(rows)], {})
    (to / "dataset.json").write_text(json.dumps(content))
    return to


def test_an_empty_train_split_is_refused(dataset, recipe, tmp_path):
    with pytest.raises(DataError, match=r"'train' of .* holds no video to train on"):
        train(recipe, with_splits(dataset, tmp_path / "data", train=0), tmp_path / "run", gpus=0)


def test_without_a_val_split_there_is_no_validation(dataset, recipe, tmp_path):
    train(recipe, with_splits(dataset, tmp_path / "data", val=0), tmp_path / "run", gpus=0)
    assert "val_top1" not in (tmp_path / "run" / "log.jsonl").read_text()
    assert len(losses(tmp_path / "run")) == 12


def test_one_class_is_refused(dataset, recipe, tmp_path):
    one = tmp_path / "one"
    shutil.copytree(dataset.root, one)
    content = json.loads((one / "dataset.json").read_text())
    (one / "dataset.json").write_text(json.dumps({**content, "classes": ["only"]}))
    with pytest.raises(DataError, match="one class only, 'only'"):
        train(recipe, one, tmp_path / "run", gpus=0)


def test_a_file_is_no_folder_for_a_run(dataset, recipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"file is a file: name a folder for the run with --out"):
        train(recipe, dataset.root, tmp_path / "file", gpus=0)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_runs_do_not_share_a_folder(dataset, recipe, tmp_path):
    with held(tmp_path / "lock", "x"), pytest.raises(DataError, match="is being trained by another v4d train"):
        train(recipe, dataset.root, tmp_path, gpus=0)


def test_curves_are_written(dataset, recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe, dataset.root, tmp_path, gpus=0)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in curves.Scalars("train/loss")] == pytest.approx(
        [x for _, x, *_ in losses(tmp_path)]
    )
    assert {"train/top1", "train/lr", "train/videos_per_s", "train/data_wait", "val/top1"} <= set(
        curves.Tags()["scalars"]
    )


def test_what_a_killed_run_left_half_written_is_removed(dataset, recipe, tmp_path):
    half = tmp_path / "checkpoints" / ".step-00000099.a-machine-123.tmp"
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    train(recipe, dataset.root, tmp_path, gpus=0)
    assert not half.exists()
    assert load_checkpoint(tmp_path).step == 12
