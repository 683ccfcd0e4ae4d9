"""One class for each image: logits (n, classes) against class indices (n,), cross entropy, top-1 accuracy."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tvmfbnet.tasks.chance import Chance
from tvmfbnet.tasks.task import Task


class Classification(Task):
    """Soft targets are probabilities (n, classes)."""

    name, metric = "classification", "accuracy"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Cross entropy."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Images that are classified rightly, and all."""
        return torch.tensor([int((outputs.argmax(dim=1) == targets).sum()), len(targets)], dtype=torch.float64)

    def accuracy(self, tally: torch.Tensor) -> float:
        """Top-1: the share of images whose largest output is that of their class."""
        return float(tally[0] / tally[1])

    def batch_accuracy(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """As :meth:`accuracy`, rounded to float32."""
        return (outputs.argmax(dim=1) == targets).float().mean().item()

    def soft(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        return outputs.softmax(dim=1)

    def distilled_loss(self, outputs: torch.Tensor, others: torch.Tensor, temperature: float) -> torch.Tensor:
        """The Kullback-Leibler divergence of the softened outputs, times the temperature squared.

        So its gradient keeps its size (Hinton et al. 2015, section 2.1).
        """
        own, theirs = (F.log_softmax(values / temperature, dim=1) for values in (outputs, others))
        return F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2

    def mixed(self, targets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """Probabilities, of which half are the class's."""
        return (soft + F.one_hot(targets, soft.shape[1])) / 2

    def agreement(self, outputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """1 where both have one class."""
        return (outputs.argmax(dim=1) == others.argmax(dim=1)).double().cpu()

    def chance(self, targets: torch.Tensor) -> Chance:
        """Of always answering the most frequent class."""
        accuracy = int(torch.bincount(targets).max()) / len(targets)
        return Chance(accuracy, len(targets), "always the most frequent class")


TASK = Classification()
