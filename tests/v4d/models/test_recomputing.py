"""Norms while their layer is computed again. What training makes of it is in test_step."""

import pytest
import torch
from torch import nn

from v4d.models.recomputing import _statistics_kept


@pytest.mark.parametrize("kind", [nn.BatchNorm3d, nn.SyncBatchNorm])
def test_a_norm_keeps_its_statistics_and_its_count(kind):
    norm = kind(4)
    norm.num_batches_tracked.fill_(7)
    norm.running_mean.fill_(3.0)
    with _statistics_kept(nn.Sequential(norm)):
        # A synchronised norm works with its count alone; outside a process group it is torch's plain norm on a GPU.
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        if kind is nn.BatchNorm3d:
            norm(torch.randn(2, 4, 1, 3, 3))
    assert norm.num_batches_tracked == 7
    assert torch.equal(norm.running_mean, torch.full((4,), 3.0))
    assert norm.momentum == 0.1
