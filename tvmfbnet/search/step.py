"""What a step of a search reports, and how it says that a loss is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


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
