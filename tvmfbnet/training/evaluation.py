"""How good a net is at its task, over batches with targets."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from tvmfbnet.tasks.task import Task
from tvmfbnet.training.device import place_batch


def accuracy(
    net: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device, task: Task
) -> float:
    """The task's accuracy, between 0 and 1, of a net that is in eval mode on ``device``."""
    return task.accuracy(tally(net, batches, device, task))


@torch.no_grad()
def tally(
    net: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device, task: Task
) -> torch.Tensor:
    """What the task's accuracy follows from, of all images (:meth:`tvmfbnet.tasks.task.Task.tally`).

    Raises:
        ValueError: there is no batch.
    """
    total: torch.Tensor | None = None
    for batch in batches:
        pixels, targets = place_batch(*batch, device)
        own = task.tally(net(pixels).float(), targets)
        total = own if total is None else task.added([total, own])
    if total is None:
        raise ValueError("no images to judge a net on")
    return total
