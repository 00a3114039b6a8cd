"""The gradients of a global batch, whatever the number of processes that share it."""

import pytest
import torch
from safetensors.torch import load_file

from tests.v4d.conftest import TINY
from tests.v4d.recorded_gradients import AT_REST, AT_WORK, train_and_record
from v4d.checkpoint import load_checkpoint
from v4d.launch import launch
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe

# Two steps: 16 of the 24 videos, and 8 with as many places filled up, which lie on the last processes.
STEPS = 2
# No weight moves, so that all see the same network. (A rate of 0 a recipe does not take.)
SETTINGS = (*TINY, "train.global_batch=16", "optim.epochs=1", "optim.lr=1e-30", "model.norm_init_4d=1")
# Of the largest entry of a parameter's gradient. float32 rounds at 6e-8, and sums over the batch, the units and all
# positions are taken in another order: 4e-6 was seen. Norms that divide by the spread of a small share make it 2e-5.
TOLERANCE, OF_NORMS_AT_WORK = 2e-5, 1e-4


def recipe(micro_batch=0):
    return load_recipe("demo", (*SETTINGS, f"train.micro_batch={micro_batch}"))


@pytest.fixture(scope="module")
def found(dataset, tmp_path_factory):
    """Folders of gradients, and runs, by how the global batch was split: over processes, or into parts on one."""
    folder = tmp_path_factory.mktemp("gradients")
    torch.set_num_threads(1)
    for processes in (1, 2, 4):
        name = f"{processes} processes"
        launch(train_and_record, (folder / name, recipe(), dataset.root, folder / f"run of {name}", 0), 0, processes)
    for parts in (2, 4):
        name = f"{parts} parts"
        train_and_record(folder / name, recipe(16 // parts), dataset.root, folder / f"run of {name}", 0)
    return folder


def gradients(folder, norms, step, rank=0):
    """Of all parameters, by name."""
    recorded = load_file(folder / f"{norms}, step {step}, rank {rank}.safetensors")
    return {name: recorded[name] for name, _ in V4D(recipe().model, 6).named_parameters()}


def furthest(ours, theirs):
    """The largest difference, as a share of the largest entry, of the parameter where that is the most."""
    assert ours.keys() == theirs.keys()
    shares = {}
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        shares[name] = float((ours[name] - gradient).abs().max() / gradient.abs().max())
    return max((share, name) for name, share in shares.items())


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_are_those_of_one_process(found, processes, step):
    """With norms that do not look at the batch: on every rank, of every parameter, 4D blocks' among them."""
    one = gradients(found / "1 processes", AT_REST, step)
    assert sum("_4d.conv.weight" in name for name in one) == 2
    for rank in range(processes):
        share, name = furthest(gradients(found / f"{processes} processes", AT_REST, step, rank), one)
        assert share < TOLERANCE, (rank, name)


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("processes", [2, 4])
def test_plain_norms_see_the_share_of_their_process(found, processes, step):
    """The gradients are those of one process that takes as many parts, and not those of the whole batch at once."""
    ours = gradients(found / f"{processes} processes", AT_WORK, step)
    share, name = furthest(ours, gradients(found / f"{processes} parts", AT_WORK, step))
    assert share < OF_NORMS_AT_WORK, name
    share, _ = furthest(ours, gradients(found / "1 processes", AT_WORK, step))
    assert share > 0.1


def test_the_statistics_that_are_kept_are_those_of_the_first_process(found):
    """And so of the videos of its shares alone."""
    ours, theirs = (
        load_file(found / "2 processes" / f"{AT_WORK}, step {STEPS - 1}, rank {rank}.safetensors") for rank in (0, 1)
    )
    kept = load_checkpoint(found / "run of 2 processes").model
    name = "layers.res3_1_4d.norm.running_mean"
    assert torch.equal(kept[name], ours[name])
    assert not torch.equal(kept[name], theirs[name])
