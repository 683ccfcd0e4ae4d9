"""What a step of a search reports, and how it says that a loss is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from tvmfbnet.nets.precision import Precision, computing_in
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.tasks.task import Task
from tvmfbnet.training.device import place_batch


class NotFiniteError(ArithmeticError):
    """A loss or theta is NaN or infinite; the searcher turns this into a message for people."""


@dataclass(frozen=True)
class StepFigures:
    """Of one step: the loss, and the accuracy on the batch."""

    loss: float
    right: float


def require_finite(loss: torch.Tensor) -> float:
    """The value of a scalar loss; NotFiniteError where it has none."""
    value = loss.item()
    if not math.isfinite(value):
        raise NotFiniteError(f"the loss is {value}")
    return value


@torch.no_grad()
def targets_of(
    pixels: torch.Tensor,
    targets: torch.Tensor,
    distilled: nn.Module | None,
    precision: Precision,
    device: torch.device,
    task: Task,
) -> torch.Tensor:
    """What a batch is learned from: its targets, or the mean of them and the output of a trained net.

    Args:
        pixels, targets: the batch.
        distilled: a trained net in evaluation mode.
        precision: that it computes in.
        device: where it lies.
        task: what the targets are for.
    """
    if distilled is None:
        return targets
    with computing_in(precision, device):
        soft = task.soft(distilled(pixels).float())
    return task.mixed(targets, soft)


def learn_batch(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: tuple[torch.Tensor, torch.Tensor],
    config: SearchConfig,
    device: torch.device,
    task: Task,
    distilled: nn.Module | None = None,
) -> None:
    """One step of an arch that is trained by itself.

    Args:
        net: the arch, in training mode.
        optimiser: of its weights.
        batch: images and targets.
        config: says in which precision, and how large gradients may be.
        device: where the net lies.
        task: what the targets are for.
        distilled: a trained net that the arch learns from besides.
    """
    pixels, targets = place_batch(*batch, device)
    target = targets_of(pixels, targets, distilled, config.precision, device, task)
    with computing_in(config.precision, device):
        outputs = net(pixels).float()
    loss = task.loss(outputs, target)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), config.gradient_clip or math.inf)
    optimiser.step()
