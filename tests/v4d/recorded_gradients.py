"""Training that writes down each rank's gradients: of a batch seen twice, with norms at rest and at work."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from v4d import train
from v4d.step import Learner

AT_REST, AT_WORK = "norms at rest", "norms at work"


@contextmanager
def _at_rest(model: torch.nn.Module) -> Iterator[None]:
    """Norms that do not look at the batch, nor at batches before it; afterwards they are as they were."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    were = [copy.deepcopy(norm.state_dict()) for norm in norms]
    for norm in norms:
        norm.eval().reset_running_stats()
    yield
    for norm, state in zip(norms, were, strict=True):
        norm.train().load_state_dict(state)


class Recording(Learner):
    """Takes each step as the trainer has it, twice, and writes the gradients of both; ``folder`` is where."""

    folder = None

    def step(self, batch, step, valid):
        rank = dist.get_rank() if dist.is_initialized() else 0
        with _at_rest(self._model):
            super().step(batch, step, valid)
        self._write(f"{AT_REST}, step {step}, rank {rank}")
        learned = super().step(batch, step, valid)
        self._write(f"{AT_WORK}, step {step}, rank {rank}")
        return learned

    def _write(self, name):
        gradients = {name: parameter.grad.contiguous() for name, parameter in self._model.named_parameters()}
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        save_file(gradients | buffers, self.folder / f"{name}.safetensors")


def train_and_record(folder, *arguments):
    """As ``v4d.train.train``; by name, for ``launch``."""
    folder.mkdir(exist_ok=True)
    with mock.patch.object(train, "Learner", Recording), mock.patch.object(Recording, "folder", folder):
        return train.train(*arguments)
