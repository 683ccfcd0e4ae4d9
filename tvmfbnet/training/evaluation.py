"""How good a net is: top-1 accuracy over labelled batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from tvmfbnet.training.device import place_batch


@torch.no_grad()
def accuracy(net: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> float:
    """Top-1 accuracy, between 0 and 1, of a net that is in eval mode on ``device``."""
    correct, total = count_correct(net, batches, device)
    return correct / total


@torch.no_grad()
def count_correct(
    net: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device
) -> tuple[int, int]:
    """Number of correctly classified images, and of all images."""
    correct = total = 0
    for batch in batches:
        pixels, labels = place_batch(*batch, device)
        correct += int((net(pixels).argmax(dim=1) == labels).sum())
        total += len(labels)
    return correct, total
