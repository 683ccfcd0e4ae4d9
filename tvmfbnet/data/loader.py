"""Batches in a reproducible order: a shuffling loader whose whole state can be saved in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tvmfbnet.data.images import Augment, ImageData, Images


class Loader:
    """Goes through some pictures of a data set again and again, shuffled anew for each pass.

    Order and augmentation come from one own generator, so two loaders with the same seed give the same batches, and
    :meth:`state_dict` in the middle of a pass is enough to go on exactly there. A last incomplete batch is left out
    (batch statistics over a handful of pictures are noise), unless it is the only one.

    Args:
        data: gives the normalisation.
        images: ``data.train`` or ``data.test``.
        indices: which pictures, int64 (n,).
        batch_size: pictures in a batch.
        augment: random changes.
        seed: of order and augmentation.
    """

    def __init__(
        self, data: ImageData, images: Images, indices: torch.Tensor, batch_size: int, augment: Augment, seed: int
    ) -> None:
        self._data, self._images, self._indices, self._augment = data, images, indices, augment
        self.batch_size = min(batch_size, len(indices))
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self._indices) // self.batch_size

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch: normalised pictures float32 (n, c, h, w) and labels int64 (n,)."""
        if self._position + self.batch_size > len(self._order):
            self._order = self._indices[torch.randperm(len(self._indices), generator=self._generator)]
            self._position = 0
        chosen = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        pixels = self._images.take(chosen, self._augment, self._generator)
        return self._data.normalise(pixels), self._images.labels[chosen]

    def state_dict(self) -> dict[str, Any]:
        """Generator, order and position, as tensors and integers."""
        return {"generator": self._generator.get_state(), "order": self._order.clone(), "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self._generator.set_state(state["generator"])
        self._order, self._position = state["order"].clone(), int(state["position"])


def in_order(
    data: ImageData, images: Images, indices: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each picture once, unchanged and in order, for evaluation: the last batch may be smaller."""
    unused = torch.Generator()
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        yield data.normalise(images.take(chosen, Augment(), unused)), images.labels[chosen]


def split_indices(count: int, share: float, seed: int, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Divides ``count`` pictures in two disjoint random parts, the first holding ``share`` of them.

    Args:
        count: pictures there are.
        share: between 0 and 1.
        seed: fixes the division for a run.
        most: use only this many pictures, chosen at random.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]
    border = round(len(order) * share)
    return order[:border], order[border:]
