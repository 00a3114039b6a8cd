"""Untrimmed videos: snippets are what the network says of its units in a row, in memory that does not grow."""

import multiprocessing
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from pipelines import EvalLoader, UntrimmedLoader
from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import read_dataset, shard_name
from preprocess.local import write_shards_locally
from preprocess.run import preprocess
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.untrimmed import SnippetScoring, snippet_scores
from v4d.inference import window_scores
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe
from v4d.resident_memory import resident

UNTRIMMED = Protocol("untrimmed")
CPU = torch.device("cpu")
TINY = ("model.base_width=4", "data.test_crop=32", "data.frames=2", "data.stride=3")


@pytest.fixture(scope="module")
def long(run_ffmpeg, tmp_path_factory):
    """Three videos of 4, 13 and 600 seconds, 5 frames a second."""
    root = tmp_path_factory.mktemp("long")
    for seed, (name, seconds) in enumerate({"a": 4, "b": 13, "c": 600}.items()):
        (root / "videos" / name).mkdir(parents=True)
        source = f"gradients=size=64x48:speed=0.08:nb_colors=6:seed={seed}:rate=5:duration={seconds}"
        run_ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-qp", "10", root / "videos" / name / "1.mkv")
    listing = list_folder(root / "videos", 0)
    preprocess(listing, root / "shards", EncodeOptions("40x32"), partial(write_shards_locally, workers=2), shard_size=4)
    return read_dataset(root / "shards")


def network(recipe, classes=3):
    torch.manual_seed(0)
    model = V4D(recipe.model, classes)
    for name, parameter in model.named_parameters():
        # 4D blocks that do something.
        if "_4d" in name and name.endswith("norm.weight"):
            parameter.data.fill_(0.7)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    return model.eval()


def loader_of(dataset, recipe, **options):
    options = {"units_per_second": 1.0, "least_units": recipe.data.units, "batch": 2, "device": CPU, **options}
    return UntrimmedLoader(dataset, "train", UNTRIMMED.sampling(recipe.data), **options)


KINDS = {
    "v4d": (),
    "one unit": ("data.units=1",),
    "tsn": ("model.blocks_4d=[]",),
    "nonlocal": ('model.block_4d="nonlocal"', "model.base_width=8"),
    "wide": ("data.units=11",),
}


@pytest.mark.parametrize(
    ("kind", "scores"), [("v4d", "softmax"), ("v4d", "sigmoid"), *((kind, "logits") for kind in KINDS)]
)
def test_snippets_are_units_in_a_row(long, kind, scores):
    recipe = load_recipe("demo", (*TINY, *KINDS[kind]))
    model, units = network(recipe), recipe.data.units
    found = list(snippet_scores(SnippetScoring(model, recipe, scores), loader_of(long, recipe).at([0, 1])))
    assert [video.labels for video in found] == [(0,), (1,)]
    assert [video.key for video in found] == [long.split("train")[i].key for i in (0, 1)]
    of_logits = {"softmax": lambda y: y.softmax(1), "sigmoid": torch.sigmoid, "logits": lambda y: y}[scores]
    for number, (video, seconds) in enumerate(zip(found, (4, 13), strict=True)):
        count = max(seconds, units)
        batches = list(EvalLoader(long, "train", recipe.data.test_sampling(count), global_batch=1, device=CPU))
        crops = batches[number].crops
        assert len(crops) == 3
        with torch.no_grad():
            expected = [
                sum(of_logits(model(crop[first : first + units], units)) for crop in crops)[0] / len(crops)
                for first in range(count - units + 1)
            ]
        assert video.scores_MK.dtype == np.float32
        np.testing.assert_allclose(video.scores_MK, torch.stack(expected).numpy(), rtol=1e-5, atol=1e-5)
    # The network tells snippets apart.
    assert np.abs(np.diff(found[1].scores_MK, axis=0)).max() > 1e-3


def test_segments_are_no_samples_here():
    recipe = load_recipe("demo", (*TINY, "data.over=segment"))
    take = UNTRIMMED.sampling(recipe.data)
    assert (take.over, take.units, take.fit_to) == ("video", 8, 4)


def test_batches_change_nothing(long):
    recipe = load_recipe("demo", TINY)
    how = SnippetScoring(network(recipe), recipe)
    of = [list(snippet_scores(how, loader_of(long, recipe, batch=batch).at([0, 1]))) for batch in (1, 5)]
    assert [len(video.scores_MK) for video in of[0]] == [1, 10]
    for one, other in zip(*of, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one.scores_MK, other.scores_MK)


class Watched(UntrimmedLoader):
    """Knows how much memory its process had at each batch."""

    def at(self, rows):
        self.seen = []
        for batch in super().at(rows):
            self.seen.append(resident()["anonymous"])
            yield batch


def _score(root, sender):
    torch.set_num_threads(1)
    recipe = load_recipe("demo", TINY)
    options = {"units_per_second": 1.0, "least_units": 4, "batch": 2, "device": CPU}
    loader = Watched(read_dataset(root), "train", UNTRIMMED.sampling(recipe.data), **options)
    list(snippet_scores(SnippetScoring(network(recipe), recipe), loader.at([1, 1, 2])))
    sender.send(loader.seen)


def test_memory_does_not_depend_on_how_long_a_video_is(long):
    """In a process of its own: a video of 13 seconds twice, then one of 600."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_score, args=(long.root, sender))
    process.start()
    sender.close()
    try:
        seen = receiver.recv()
    finally:
        process.kill()
        process.join()
    assert len(seen) > 30
    # All of the long video's crops would be 11 MB.
    assert max(seen) - seen[4] < 3, seen


def test_too_few_units_are_refused():
    recipe = load_recipe("demo", TINY)
    model = network(recipe)
    below = model.forward_below(torch.zeros(3, 3, 2, 32, 32))
    with pytest.raises(ValueError, match="3 units hold no window of 4"):
        window_scores(model, below, 4)
    with pytest.raises(ValueError, match="training mode"):
        window_scores(model.train(), below, 3)


def test_what_cannot_be_loaded_is_left_out(long, tmp_path):
    damaged = read_dataset(shutil.copytree(long.root, tmp_path / "damaged"))
    row = damaged.split("train")[1]
    with open(damaged.root / "train" / shard_name(row.shard), "r+b") as file:
        file.seek(row.offset)
        # Of two chunks the first.
        file.write(bytes(row.size // 4))
    recipe = load_recipe("demo", TINY)
    how = SnippetScoring(network(recipe), recipe)
    loader = loader_of(damaged, recipe, max_bad=0.5)
    found, bad = snippet_scores(how, loader.at([0, 1]))
    sound, _ = snippet_scores(how, loader_of(long, recipe).at([0, 1]))
    assert loader.bad.in_epoch == 1
    assert found[:2] == sound[:2] == ("a/1", (0,))
    np.testing.assert_array_equal(found.scores_MK, sound.scores_MK)
    assert bad[:2] == ("", ())
    assert bad.scores_MK.shape == (0, 3)
    np.testing.assert_array_equal(bad.integrated(), np.zeros(3, np.float32))


def test_mirrored_crops_count_too(long):
    """Classes 0 and 1 are each other's mirrored ones, 2 is none's."""
    recipe = load_recipe("demo", TINY)
    model = network(recipe)
    how = SnippetScoring(model, recipe, "logits", mirrors=True, flip={0: 1, 1: 0, 2: -1})
    (found,) = snippet_scores(how, loader_of(long, recipe, crops=5).at([0]))
    batch = next(iter(EvalLoader(long, "train", recipe.data.test_sampling(4), global_batch=1, device=CPU, crops=5)))
    assert len(batch.crops) == 5
    total = torch.zeros(3)
    with torch.no_grad():
        for crop in batch.crops:
            plain, mirrored = model(crop, 4)[0], model(crop.flip(-1), 4)[0]
            total += plain + torch.stack([mirrored[1], mirrored[0], plain[2]])
    np.testing.assert_allclose(found.scores_MK[0], (total / 10).numpy(), rtol=1e-5, atol=1e-5)
