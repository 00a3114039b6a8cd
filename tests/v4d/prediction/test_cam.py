"""``v4d cam``: the maps of a file, whose sheet and clip are pictures of what they say."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import EvalLoader
from preprocess.errors import UsageError
from preprocess.index import VERSION
from tests.v4d.prediction.test_predict import v4d
from tests.v4d.untrained import untrained, untrained_run
from v4d.activation_sheet import activation_sheet, overlay_clip
from v4d.prediction.cam import video_maps
from v4d.trained import load_trained
from v4d.weights.weights_file import save_weights

CPU = torch.device("cpu")


def maps_of(run, videos, dataset, against=None, units=4, class_name=None):
    other = load_trained(against) if against else None
    return video_maps(load_trained(run), other, videos[0], dataset, units=units, class_name=class_name, device=CPU)


@pytest.mark.parametrize("units", [4, 5])
@torch.no_grad()
def test_maps_are_of_what_evaluation_sees_in_the_centre(units, run, videos, dataset):
    maps = maps_of(run, videos, dataset, units=units)
    trained = load_trained(run)
    take = trained.recipe.data.test_sampling(units)
    x = next(iter(EvalLoader(dataset, "val", take, global_batch=1, device=CPU, crops=1))).crops[0]
    np.testing.assert_array_equal(maps.frames_UTHWC, x.permute(0, 2, 3, 4, 1))
    logits_K = trained.model.eval()(x, units)[0]
    (row,) = maps.rows
    top = int(logits_K.argmax())
    assert row.class_name == dataset.classes[top]
    assert row.score == pytest.approx(float(logits_K.softmax(dim=0)[top]), abs=1e-5)
    assert row.map_UTHW.shape[:2] == (units, 2)
    assert row.map_UTHW.mean() == pytest.approx(float(logits_K[top] - trained.model.classifier.bias[top]), abs=1e-4)


def test_a_weights_file_of_several_labels_has_their_scores(recipe, videos, dataset, tmp_path):
    path, network = tmp_path / "acts.safetensors", untrained(recipe, 6, seed=5)
    scores = {}
    for loss in ("softmax", "sigmoid"):
        save_weights(path, network, (), recipe.data, loss=loss)
        scores[loss] = maps_of(path, videos, dataset).rows[0].score
    x_NCTHW = torch.from_numpy(maps_of(path, videos, dataset).frames_UTHWC).permute(0, 4, 1, 2, 3)
    logits_K = network.eval()(x_NCTHW, 4)[0].detach()
    assert scores["sigmoid"] == pytest.approx(float(logits_K.max().sigmoid()), abs=1e-5)
    assert scores["softmax"] == pytest.approx(float(logits_K.softmax(dim=0).max()), abs=1e-5)
    assert abs(scores["sigmoid"] - scores["softmax"]) > 0.01


def test_both_networks_show_the_same_class(run, videos, dataset, recipe, tmp_path):
    other = untrained_run(tmp_path / "other", recipe, dataset, seed=5)
    asked = dataset.classes[3]
    for class_name, wanted in ((None, maps_of(run, videos, dataset).rows[0].class_name), (asked, asked)):
        below, above = reversed(maps_of(run, videos, dataset, other, class_name=class_name).rows)
        assert (above.network, below.network) == ("other, step 3", "run, step 3")
        assert above.class_name == below.class_name == wanted
        (alone,) = maps_of(other, videos, dataset, class_name=wanted).rows
        np.testing.assert_array_equal(above.map_UTHW, alone.map_UTHW)
    nameless = tmp_path / "other.safetensors"
    save_weights(nameless, untrained(recipe, 6, seed=5), (), recipe.data)
    np.testing.assert_array_equal(
        maps_of(run, videos, dataset, nameless).rows[0].map_UTHW, maps_of(run, videos, dataset, other).rows[0].map_UTHW
    )
    with pytest.raises(UsageError, match=rf"knows no class '{asked}s' \(did you mean '{asked}'\?\)"):
        maps_of(run, videos, dataset, class_name=f"{asked}s")


def test_the_command_writes_a_sheet_and_a_clip(run, videos, dataset, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    untrained_run(tmp_path / "other", recipe, dataset, seed=5)
    said, _ = v4d("cam", videos[0], "--against", "other", "--video", "clip.mp4", "--gpus", "0")
    maps = maps_of(run, videos, dataset, Path("other"))
    assert said.splitlines() == [
        *(f"{row.network}: {row.score:.1%}  {row.class_name}" for row in maps.rows),
        *(f"maps: {videos[0].stem}-cam.png", "clip: clip.mp4"),
    ]
    with Image.open(f"{videos[0].stem}-cam.png") as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), activation_sheet(maps.frames_UTHWC, maps.rows, str(videos[0])))
        about = json.loads(sheet.text["v4d"])
    assert about["v4d"] == VERSION and about["units"] == 4 and about["dataset"] == dataset.fingerprint
    assert about["against"]["step"] == about["step"] == 3
    drawn = overlay_clip(maps.frames_UTHWC, maps.rows)
    with av.open("clip.mp4") as clip:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])
        assert clip.streams.video[0].average_rate == 4
    assert shown.shape == drawn.shape == (8, 44 + 224, 3 * 224 + 2 * 10, 3)
    # Nearer to its own frame than to any other, whatever compression did.
    differences = np.abs(shown[:, None].astype(int) - drawn[None]).mean(axis=(2, 3, 4))
    assert (differences.argmin(axis=1) == np.arange(8)).all() and differences.diagonal().max() < 8


def test_what_cannot_be_is_one_line(run, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    for arguments, code, wanted in [
        (["text.mp4"], 1, "v4d: text.mp4: not readable as a video"),
        (["gone.mp4"], 1, "v4d: gone.mp4: cannot be opened"),
        ([videos[0], "--class", "jumping"], 2, "knows no class 'jumping'"),
        ([videos[0], "--out", "text.mp4/cam.png"], 1, "text.mp4"),
    ]:
        _, beside = v4d("cam", *arguments, "--gpus", "0", code=code)
        assert wanted in beside and beside.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


def test_nothing_is_written_over_the_video_or_the_sheet(run, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = tmp_path / "clip.mp4"
    video.write_bytes(videos[0].read_bytes())
    for arguments, wanted in [
        (["--out", "./clip.mp4"], "--out would write over VIDEO, clip.mp4"),
        (["--video", tmp_path / "clip.mp4"], "--video would write over VIDEO"),
        (["--out", "a.png", "--video", "a.png"], "--video would write over --out, a.png"),
        (["--out", "a.jpg"], "--out a.jpg: it is written as PNG, name it NAME.png"),
        (["--video", "a.avi"], "--video a.avi: it is written as MP4, name it NAME.mp4"),
        (["--out", "runs"], "File 'runs' is a directory"),
    ]:
        _, beside = v4d("cam", video, *arguments, "--gpus", "0", code=2)
        assert wanted in beside
    assert video.read_bytes() == videos[0].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "runs"]
