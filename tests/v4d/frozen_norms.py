"""Training in which no norm takes statistics of its batch: what is left does not depend on the number of processes."""

from unittest import mock

import torch

from v4d import step, train


def build(*arguments):
    """As ``v4d.step.build``, with norms that stay in eval mode."""
    model, optimizer = step.build(*arguments)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return model, optimizer


def train_with_frozen_norms(*arguments):
    """As ``v4d.train.train``; by name, for ``launch``."""
    with mock.patch.object(train, "build", build):
        return train.train(*arguments)
