"""Networks with their norms folded into their convolutions: the same scores, and no norm left."""

import pytest
import torch
from torch import nn

from v4d.inference import video_scores
from v4d.models.folding import fold_norms
from v4d.models.registry import create_model, list_models


def with_statistics(model):
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


@pytest.mark.parametrize("name", list_models())
def test_scores_are_the_same(name):
    model = with_statistics(create_model(name, 5, base_width=16)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_norms(model)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not folded.training
    x = torch.randint(0, 256, (8, 3, 2, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        wanted = model(x, 4)
        torch.testing.assert_close(folded(x, 4), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
    # The network itself is as it was.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_in_test_too():
    model = with_statistics(create_model("v4d_resnet18", 5, base_width=8, kernel_4d=(3, 3, 3, 3))).eval()
    x = torch.randint(0, 256, (6, 3, 2, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(video_scores(fold_norms(model), x, 6, 4), video_scores(model, x, 6, 4))


def test_layout_stays():
    last = torch.channels_last_3d
    folded = fold_norms(create_model("v4d_resnet18", 5, base_width=8).to(memory_format=last))
    assert all(p.is_contiguous(memory_format=last) for p in folded.parameters() if p.ndim == 5)


def test_a_network_without_norms_in_its_4d_blocks_stays_one():
    model = with_statistics(create_model("v4d_resnet18", 5, base_width=8, norm_4d=False)).eval()
    nn.init.normal_(model.layers["res3_1_4d"].conv.weight, std=0.05)
    x = torch.randint(0, 256, (4, 3, 2, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(fold_norms(model)(x, 4), model(x, 4), rtol=1e-4, atol=1e-4)


def test_a_norm_that_follows_no_convolution_is_refused():
    model = create_model("tsn_resnet18", 5, base_width=8)
    model.layers["res2_0"].shortcut = nn.Sequential(nn.Identity(), nn.BatchNorm3d(8))
    with pytest.raises(TypeError, match="1 of Sequential does not follow a convolution"):
        fold_norms(model)
