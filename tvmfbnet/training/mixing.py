"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): batches whose images, and with them labels, are mixed.

torchvision's own transforms, on batches. They draw from torch's generator of the process, which a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Way = Callable[[torch.Tensor, torch.Tensor], Sequence[torch.Tensor]]


class Mixing:
    """Mixes each batch in one of the ways that are on; where both are, each has half of the batches.

    Args:
        mixup: alpha of the beta distribution that shares are drawn from; 0 for off.
        cutmix: the same, of the area that another image takes.
        classes: of the labels.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        self._ways: list[Way] = []
        if mixup or cutmix:
            from torchvision.transforms import v2  # takes a second to load

            kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            self._ways = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]

    @property
    def is_on(self) -> bool:
        """Whether batches are mixed at all."""
        return bool(self._ways)

    def of(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A mixed batch: images (n, c, h, w) and shares of classes (n, classes); as it is where nothing is on.

        Args:
            pixels: (n, c, h, w).
            labels: int64 (n,).
        """
        if not self._ways:
            return pixels, labels
        chosen = int(torch.randint(len(self._ways), ())) if len(self._ways) > 1 else 0
        mixed, shares = self._ways[chosen](pixels, labels)
        return mixed, shares


def hard_labels(targets: torch.Tensor) -> torch.Tensor:
    """The class of each image (n,), or the one with the largest share where images are mixed."""
    return targets.argmax(dim=1) if targets.dim() == 2 else targets
