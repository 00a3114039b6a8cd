"""What the paper says of its networks: parameters, multiply-adds and the sizes of Table 1."""

import pytest
import torch

from v4d import create_model
from v4d.models.multiply_adds import count_multiply_adds, on_meta
from v4d.models.registry import registered


# Table 2, which counts a 1000-way classifier.
@pytest.mark.parametrize(
    ("name", "millions"), [("i3d_s_resnet18", 32.3), ("i3d_s_resnet18_plus_plus", 34.1), ("v4d_resnet18", 33.1)]
)
def test_parameters(name, millions):
    with torch.device("meta"):
        model = create_model(name, 1000)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


# Table 2, for 4×4 frames at 224×224: the convolutions (and the classifier), and with norms and activations.
@pytest.mark.parametrize(("name", "products", "total"), [("tsn_resnet18", 54.9, 55.1), ("v4d_resnet18", 58.6, 58.8)])
def test_multiply_adds(name, products, total):
    model, x = on_meta(registered(name).model, 1000, units=4, frames=4, crop=224)
    counted = count_multiply_adds(lambda: model(x, 4))
    assert (round(counted.products / 1e9, 1), round(counted.total / 1e9, 1)) == (products, total)


def test_multiply_adds_by_hand():
    """The counting rule, on a network small enough to do it."""
    model = torch.nn.Sequential(
        torch.nn.Conv3d(3, 4, 3, padding=1, bias=False),
        torch.nn.BatchNorm3d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool3d((1, 2, 2)),
        torch.nn.GroupNorm(2, 4),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 2 * 3 * 3, 5),
    ).eval()
    x = torch.zeros(1, 3, 2, 6, 6)
    counted = count_multiply_adds(lambda: model(x + x).relu_().add_(1))
    pixels, full, pooled, scores = x.numel(), 4 * 2 * 6 * 6, 4 * 2 * 3 * 3, 5
    assert counted.products == full * 3 * 27 + pooled * scores
    assert counted.elementwise == pixels + full * (2 + 1) + pooled * (4 + 2) + scores * 2


# The ends of the stages at 224×224; T stays as it is.
SIDES = {"stem": 56, "res2": 56, "res3": 28, "res4": 14, "res5": 7}


@pytest.mark.parametrize("name", ["i3d_s_resnet18", "i3d_s_resnet50", "v4d_resnet18", "v4d_resnet50"])
@pytest.mark.parametrize("frames", [4, 8])
def test_sizes_of_table_1(name, frames):
    model, x = on_meta(registered(name).model, 400, units=4, frames=frames, crop=224)
    sizes = {}

    def keep(layer_name):
        return lambda layer, inputs, output: sizes.update({layer_name: tuple(output.shape)})

    for layer_name, layer in model.layers.items():
        layer.register_forward_hook(keep(layer_name))
    model(x, 4)
    for layer_name, (batch, channels, *size) in sizes.items():
        stage = layer_name.split("_")[0]
        assert batch == 4
        assert size == [frames, SIDES[stage], SIDES[stage]], layer_name
        width = 64 if stage == "stem" else 64 << int(stage[-1]) - 2
        assert channels == width * (4 if "50" in name and stage != "stem" else 1), layer_name


@pytest.mark.parametrize(("name", "counts"), [("i3d_s_resnet18", [2, 2, 2, 2]), ("i3d_s_resnet50", [3, 4, 6, 3])])
def test_kernels_of_table_1(name, counts):
    with torch.device("meta"):
        layers = create_model(name).layers
    assert tuple(layers["stem"][0].kernel_size) == (1, 7, 7)
    assert [sum(layer.startswith(f"res{stage}_") for layer in layers) for stage in (2, 3, 4, 5)] == counts
    for layer_name, layer in layers.items():
        if layer_name == "stem":
            continue
        temporal = 3 if layer_name[3] in "45" else 1
        kernels = [tuple(m.kernel_size) for n, m in layer.named_children() if n.startswith("conv")]
        basic = [(temporal, 3, 3)] * 2
        assert kernels == (basic if "18" in name else [(temporal, 1, 1), (1, 3, 3), (1, 1, 1)]), layer_name


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("v4d_resnet18", ["res3_1_4d", "res4_1_4d"]),
        ("v4d_resnet50", ["res3_1_4d", "res3_3_4d", "res4_1_4d", "res4_3_4d", "res4_5_4d"]),
    ],
)
def test_places_of_the_4d_blocks(name, places):
    with torch.device("meta"):
        model = create_model(name)
    assert [layer for layer in model.layers if layer.endswith("_4d")] == places
    assert all(tuple(model.layers[place].conv.weight.shape[2:]) == (3, 3, 1, 1) for place in places)
