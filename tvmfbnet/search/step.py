"""What a step of a search reports, and how it says that a loss is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tvmfbnet.nets.precision import Precision, computing_in
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.training.device import place_batch


class NotFiniteError(ArithmeticError):
    """A loss or theta is NaN or infinite; the searcher turns this into a message for people."""


@dataclass(frozen=True)
class StepFigures:
    """Of one step: the loss, and the share of the batch that was classified rightly."""

    loss: float
    right: float


def require_finite(loss: torch.Tensor) -> float:
    """The value of a scalar loss; NotFiniteError where it has none."""
    value = loss.item()
    if not math.isfinite(value):
        raise NotFiniteError(f"the loss is {value}")
    return value


def right_share(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images (n, classes) whose largest logit is that of their label (n,)."""
    return (logits.argmax(dim=1) == labels).float().mean().item()


@torch.no_grad()
def targets_of(
    pixels: torch.Tensor, labels: torch.Tensor, distilled: nn.Module | None, precision: Precision, device: torch.device
) -> torch.Tensor:
    """What a batch is learned from: its labels (n,), or the mean of them and the output of a trained net, (n, classes).

    Args:
        pixels, labels: the batch.
        distilled: a trained net in evaluation mode.
        precision: that it computes in.
        device: where it lies.
    """
    if distilled is None:
        return labels
    with computing_in(precision, device):
        soft: torch.Tensor = distilled(pixels).float().softmax(dim=1)
    return (soft + F.one_hot(labels, soft.shape[1])) / 2


def learn_batch(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: tuple[torch.Tensor, torch.Tensor],
    config: SearchConfig,
    device: torch.device,
    distilled: nn.Module | None = None,
) -> None:
    """One step of an arch that is trained by itself.

    Args:
        net: the arch, in training mode.
        optimiser: of its weights.
        batch: images and labels.
        config: says in which precision, and how large gradients may be.
        device: where the net lies.
        distilled: a trained net that the arch learns from besides.
    """
    pixels, labels = place_batch(*batch, device)
    target = targets_of(pixels, labels, distilled, config.precision, device)
    with computing_in(config.precision, device):
        logits = net(pixels).float()
    loss = F.cross_entropy(logits, target)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), config.gradient_clip or math.inf)
    optimiser.step()
