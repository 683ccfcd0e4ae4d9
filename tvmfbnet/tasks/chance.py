"""Whether an accuracy is better than chance: than that of a net which answers the same whatever the image.

The bar is two standard errors above chance, sqrt(p (1 - p) / n) each: a net that learned nothing lies above it in one
of some forty evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ERRORS = 2.0


@dataclass(frozen=True)
class Chance:
    """The accuracy of chance on a set of images.

    Attributes:
        accuracy: of chance, between 0 and 1.
        images: how many there are.
        answer: what chance answers.
    """

    accuracy: float
    images: int
    answer: str = "always the most frequent class"

    def explains(self, accuracy: float) -> bool:
        """Whether an accuracy on these images, between 0 and 1, is no better than chance."""
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)
        return accuracy <= self.accuracy + _ERRORS * error

    def describe(self, accuracy: float) -> str:
        """One phrase for people."""
        return f"{accuracy:.1%} on {self.images} images is no better than chance ({self.answer}: {self.accuracy:.1%})"
