"""Batches in a reproducible order: a shuffling loader whose whole state can be saved in the middle of an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.images import ImageData, Images
from tvmfbnet.errors import DataError

Batch = tuple[torch.Tensor, torch.Tensor]
"""Normalised images float32 (n, c, h, w) and their targets (n, ...)."""

# One thread for all loaders: decoding itself uses several. It starts with the first batch that must be decoded.
_READER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")


class Loader:
    """Iterates over a subset of a data set without end, reshuffled for each pass.

    Order and augmentation come from the loader's own generator: two loaders with one seed give the same batches, and
    :meth:`state_dict` in the middle of a pass is enough to resume exactly there. A last incomplete batch is left out
    (batch statistics over a handful of images are noise), unless it is the only one.

    Several processes may share a batch: all draw the same order and changes, and each loads its own part.

    Images that must be decoded are loaded one batch ahead, in a thread, while the caller computes;
    :attr:`waited_seconds` tells whether that is enough.

    Args:
        data: gives the normalisation.
        images: ``data.train`` or ``data.test``.
        indices: which images, int64 (n,).
        batch_size: images in a batch, of all processes together.
        augment: random changes.
        seed: of order and augmentation.
        part: this process's number and how many there are.

    Raises:
        DataError: the processes cannot divide a batch evenly.
    """

    def __init__(
        self,
        data: ImageData,
        images: Images,
        indices: torch.Tensor,
        batch_size: int,
        augment: Augment,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._data, self._images, self._indices, self._augment = data, images, indices, augment
        self.batch_size = min(batch_size, len(indices))
        rank, size = part
        if self.batch_size % size:
            raise DataError(f"{size} processes cannot divide a batch of {self.batch_size} images evenly")
        share = self.batch_size // size
        self._own = slice(rank * share, (rank + 1) * share)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0
        self._ahead: tuple[Future[Batch], dict[str, Any]] | None = None
        self.waited_seconds = 0.0
        """Time that :meth:`next` has taken so far: what the caller waited for data."""

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self._indices) // self.batch_size

    def next(self) -> Batch:
        """The next batch: normalised images float32 (n, c, h, w) and their targets (n, ...)."""
        started = time.monotonic()
        if self._ahead is None:
            batch = self._load(*self._plan())
        else:
            batch = self._ahead[0].result()
            self._ahead = None
        if self._images.decodes:
            before = self.state_dict()
            self._ahead = (_READER.submit(self._load, *self._plan()), before)
        self.waited_seconds += time.monotonic() - started
        return batch

    def _plan(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """This process's share of the next batch: the images, and the numbers that determine their augmentation."""
        if self._position + self.batch_size > len(self._order):
            self._order = self._indices[torch.randperm(len(self._indices), generator=self._generator)]
            self._position = 0
        chosen = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        draws = self._augment.draw(len(chosen), self._generator)
        return chosen[self._own], draws[self._own] if draws is not None else None

    def _load(self, chosen: torch.Tensor, draws: torch.Tensor | None) -> Batch:
        given = (chosen, self._augment, draws)
        return self._data.normalise(self._images.load(*given)), self._images.targets(*given)

    def state_dict(self) -> dict[str, Any]:
        """Generator, order and position, as tensors and integers; a batch loaded ahead does not count as taken."""
        if self._ahead is not None:
            return self._ahead[1]
        return {"generator": self._generator.get_state(), "order": self._order.clone(), "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state; ValueError if it is not one of a loader of these images."""
        order, position = state["order"], state["position"]
        if not torch.is_tensor(order) or order.dtype != torch.int64 or not isinstance(position, int):
            raise ValueError("not a loader's state")
        same = len(order) == 0 or torch.equal(order.sort().values, self._indices.sort().values)
        if not same or not 0 <= position <= len(order):
            raise ValueError("the state is of a loader of other images")
        self._ahead = None
        self._generator.set_state(state["generator"])
        self._order, self._position = order.clone(), position


def in_order(
    data: ImageData, images: Images, indices: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each image once, unchanged and in order, for evaluation: the last batch may be smaller."""
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        given = (chosen, Augment(), None)
        yield data.normalise(images.load(*given)), images.targets(*given)


def split_indices(count: int, share: float, seed: int, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Divides ``count`` images in two disjoint random parts, the first holding ``share`` of them.

    Args:
        count: images there are.
        share: between 0 and 1.
        seed: fixes the division for a run.
        most: use only this many images, chosen at random.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]
    border = round(len(order) * share)
    return order[:border], order[border:]
