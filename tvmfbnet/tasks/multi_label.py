"""Any number of classes for each image: logits (n, classes) against 0 or 1 per class (n, classes), float32.

Accuracy is the mean average precision over classes (mAP), of those that some image has. Average precision follows from
how many images with and without the class have a score in each of 1,000 bins: so tallies add up.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tvmfbnet.tasks.average_precision import BINS, average_precision, score_histogram
from tvmfbnet.tasks.chance import Chance
from tvmfbnet.tasks.task import Task


class MultiLabel(Task):
    """Soft targets are probabilities, one per class."""

    name, metric = "multi_label", "mAP"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Binary cross entropy, the mean over images and classes."""
        return F.binary_cross_entropy_with_logits(outputs, targets * (1 - smoothing) + smoothing / 2)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Images by class, whether they have it, and bin of their score."""
        count, classes = outputs.shape
        numbers = torch.arange(classes, device=outputs.device).expand(count, classes)
        histogram = score_histogram(outputs.sigmoid().flatten(), numbers.flatten(), targets.flatten() > 0.5, classes)
        return histogram.flatten()

    def accuracy(self, tally: torch.Tensor) -> float:
        """Mean average precision; 0 where no image has any class."""
        histogram = tally.view(-1, 2, BINS)
        positives = histogram[:, 1].sum(dim=1)
        precisions = average_precision(histogram, positives)
        return float(precisions[positives > 0].mean()) if bool((positives > 0).any()) else 0.0

    def soft(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities."""
        return outputs.sigmoid()

    def mixed(self, targets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """Probabilities, of which half are the labels'."""
        return (targets + soft) / 2

    def agreement(self, outputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """The share of classes that both nets give the image, or both do not."""
        return ((outputs > 0) == (others > 0)).double().mean(dim=1).cpu()

    def chance(self, targets: torch.Tensor) -> Chance:
        """The mean share of images that have a class: what scores give that say nothing about the image."""
        shares = targets.double().mean(dim=0)
        return Chance(float(shares[shares > 0].mean()) if bool((shares > 0).any()) else 0.0, len(targets), "any order")


TASK = MultiLabel()
