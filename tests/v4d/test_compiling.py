"""Networks by torch.compile: the settings, and on a GPU what comes out."""

import pytest
import torch
from torch._dynamo.eval_frame import OptimizedModule
from torch.torch_version import TorchVersion

from v4d import compiling
from v4d.compiling import compiled
from v4d.config import ModelConfig, TrainConfig
from v4d.models.network import V4D

STAGES = ("stem", "res2", "res3", "res4", "res5")
SMALL = ModelConfig(base_width=8, blocks_4d=("res3.1",), norm_init_4d=1.0, dropout=0.0)


def test_a_network_is_compiled_where_it_is_asked_for():
    model = V4D(SMALL, 3)
    assert compiled(model, TrainConfig(compile=False)) is model
    assert isinstance(compiled(model, TrainConfig(compile=True)), OptimizedModule)


@pytest.mark.parametrize(
    ("version", "ranks", "stages", "splits"),
    [
        ("2.6.0", 2, STAGES, False),
        ("2.6.0", 2, (), True),
        ("2.6.0", 1, STAGES, True),
        ("2.13.0+cpu", 2, STAGES, True),
    ],
)
def test_an_older_torch_does_not_split_what_is_recomputed(version, ranks, stages, splits, monkeypatch):
    from torch._dynamo import config as dynamo

    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with dynamo.patch(optimize_ddp=True):
        compiled(V4D(SMALL, 3), TrainConfig(compile=True, checkpoint_stages=stages), ranks)
        assert dynamo.optimize_ddp == splits


def test_torch_knows_the_settings_for_a_gpu():
    torch.compile(V4D(SMALL, 3), options=compiling._ON_GPU | {compiling._TUNED: True})
    with pytest.raises(RuntimeError, match="unknown_setting"):
        torch.compile(V4D(SMALL, 3), options={"unknown_setting": 1})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("autotune", [False, True])
def test_on_a_gpu_it_learns_the_same(autotune):
    torch.manual_seed(0)
    x = torch.randint(0, 256, (8, 3, 4, 64, 64), dtype=torch.uint8, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last_3d)
    model = V4D(SMALL, 3).cuda().to(memory_format=torch.channels_last_3d)
    found = []
    for network in (model, compiled(model, TrainConfig(compile=True, autotune=autotune))):
        model.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(network(x, 4), torch.tensor([0, 2], device="cuda"))
        loss.backward()
        found.append([loss, *(parameter.grad.clone() for parameter in model.parameters())])
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-2, atol=1e-2 * plain.abs().max().item())
