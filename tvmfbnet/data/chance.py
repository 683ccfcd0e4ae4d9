"""Whether an accuracy is better than chance: better than always answering the most frequent class.

The bar is two standard errors above the share of the most frequent class, sqrt(p (1 - p) / n) each: a net that learned
nothing lies above it in one of some forty evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_ERRORS = 2.0


@dataclass(frozen=True)
class Chance:
    """The accuracy of chance on a set of images.

    Attributes:
        accuracy: of always answering the most frequent class, between 0 and 1.
        images: how many there are.
    """

    accuracy: float
    images: int

    @classmethod
    def of(cls, labels: torch.Tensor) -> Chance:
        """For images with these labels, int64 (n,)."""
        return cls(int(torch.bincount(labels).max()) / len(labels), len(labels))

    def explains(self, accuracy: float) -> bool:
        """Whether an accuracy on these images, between 0 and 1, is no better than chance."""
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)
        return accuracy <= self.accuracy + _ERRORS * error

    def describe(self, accuracy: float) -> str:
        """One phrase for people."""
        return (
            f"{accuracy:.1%} on {self.images} images is no better than chance (always the most frequent class: "
            f"{self.accuracy:.1%})"
        )
