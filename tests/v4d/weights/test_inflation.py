"""A 2D network, inflated, on a video of one repeated frame.

With 2D kernels at the middle of the 3D ones each frame is the 2D network's, in a unit of any length.

With 2D kernels repeated, one that is 3 frames deep sees zeros over the ends of a unit, so that there the inflated
network differs from the 2D one, after each of its layers one frame further in. What holds exactly: every frame up to
res3, which is 1 frame deep throughout; and behind L layers of 3 frames every frame that is at least L from both ends.
L is 8 for ResNet-18 and 9 for ResNet-50, so that the middle one of 2L + 1 frames is the 2D network's.
"""

import pytest
import torch

from preprocess.errors import DataError
from tests.v4d.weights.plain_resnets import IMAGENET, PlainResNet, normalised
from v4d.config import ModelConfig
from v4d.models.network import V4D
from v4d.weights.imported import check, read_foreign
from v4d.weights.inflation import centred, repeated
from v4d.weights.initial import initialise

DEEP_LAYERS = {18: 8, 50: 9}


@pytest.mark.parametrize("inflate", [repeated, centred])
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_an_inflated_kernel_answers_as_the_2d_one(frames, inflate):
    torch.manual_seed(0)
    kernel, image = torch.randn(4, 3, 3, 3, dtype=torch.double), torch.randn(1, 3, 8, 8, dtype=torch.double)
    inflated = inflate(kernel, frames)
    assert inflated.shape == (4, 3, frames, 3, 3)
    video = image.unsqueeze(2).repeat(1, 1, frames, 1, 1)
    response = torch.nn.functional.conv3d(video, inflated).squeeze(2)
    torch.testing.assert_close(response, torch.nn.functional.conv2d(image, kernel))
    assert inflated.dtype == kernel.dtype
    assert torch.equal(inflated[:, :, 0], kernel if frames == 1 else inflated[:, :, -1])


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("frames", [1, 4])
@torch.no_grad()
def test_the_centred_network_is_the_2d_one_at_every_frame(frames, depth, tmp_path):
    plain, path = PlainResNet("torchvision", depth, is_2d=True), tmp_path / "resnet.pth"
    torch.save(plain.state, path)
    model = V4D(ModelConfig(depth=depth, base_width=8, norm_init_4d=0.0), 7).eval()
    initialise(model, f"imagenet-center={path}")
    # Double, so that what is left is the rounding of the pixels.
    model.double()
    plain.state = {key: value.double() if value.ndim else value for key, value in plain.state.items()}
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    pixels = normalised(image, IMAGENET).double()
    # Four units of frames that are all alike; the fresh 4D blocks leave them as they are.
    video = image.repeat_interleave(4, dim=0).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    features, expected = model.forward_features(video, 4), plain.features(pixels)
    expected = expected.repeat_interleave(4, dim=0).unsqueeze(2).expand_as(features)
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, rtol=0, atol=5e-7 * expected.abs().max().item())
    torch.testing.assert_close(model(video, 4), plain.scores(pixels), rtol=1e-5, atol=1e-5)
    # Repeated kernels are not, so near to the ends.
    initialise(model, f"imagenet={path}")
    assert frames == 1 or (model.forward_features(video, 4) - expected).abs().max() > 0.1 * expected.std()


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_the_inflated_network_is_the_2d_one(depth, tmp_path):
    plain, path = PlainResNet("torchvision", depth, is_2d=True), tmp_path / "resnet.pth"
    torch.save(plain.state, path)
    model, found = read_foreign(path, "torchvision")
    check(found, path, strict=True)
    assert len(found.matched) == len(plain.state)
    deep = [name for name, weight in model.named_parameters() if weight.ndim == 5 and weight.shape[2] == 3]
    reach = DEEP_LAYERS[depth]
    assert len(deep) == reach
    # Double, so that what is left of rounding (of the kernels' thirds) is far below what the ends do.
    model.double()
    plain.state = {key: value.double() if value.ndim else value for key, value in plain.state.items()}
    image = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    video = image.unsqueeze(2).repeat(1, 1, 2 * reach + 1, 1, 1)
    pixels = normalised(image, IMAGENET).double()
    expected = plain.features(pixels)
    features = model.forward_features(video, 1)
    off = (features - expected.unsqueeze(2)).abs().amax(dim=(0, 1, 3, 4)) / expected.abs().max()
    assert off[reach] < 5e-7
    # It is the ends that differ, and by no rounding.
    assert all(off[frame] > 1e-6 for frame in range(2 * reach + 1) if frame != reach)
    scores = model.forward_head(features[:, :, reach : reach + 1], 1)
    torch.testing.assert_close(scores, plain.scores(pixels), rtol=1e-5, atol=1e-5)
    # Without layers that are 3 frames deep every frame is the 2D network's, whatever their number.
    below = {name: layer for name, layer in model.layers.items() if name[:4] in ("stem", "res2", "res3")}
    y = normalised(video[:, :, :2], IMAGENET).double()
    for layer in below.values():
        y = layer(y)
    plain.sequence = {stage: blocks if stage < 3 else [] for stage, blocks in plain.sequence.items()}
    expected = plain.features(pixels)
    torch.testing.assert_close(y, expected.unsqueeze(2).expand_as(y), rtol=1e-5, atol=1e-5)


def test_only_2d_namings_are_inflated(tmp_path):
    state, path = PlainResNet("mmaction2", 18, is_2d=True).state, tmp_path / "tsn.pth"
    torch.save(state, path)
    with pytest.raises(DataError, match=r"backbone\.conv1\.conv\.weight is \(8, 3, 7, 7\) there, and layers\.stem\.0"):
        check(read_foreign(path, "mmaction2")[1], path, strict=False)
