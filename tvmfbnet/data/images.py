"""The interface of data sets: images by index, in whole batches, as uint8 tensors.

Small data sets are decoded once and stay in memory; image folders are decoded batch by batch.
Random augmentation comes from a generator that the caller owns, so that a stopped run resumes without a trace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.nn import functional as F

from tvmfbnet.data.augment import AREA, FLIP, LEFT, TOP, Augment, augment_image
from tvmfbnet.data.fingerprint import joined_digest, of_files, of_tensors
from tvmfbnet.machine import allowed_cores


class Images(ABC):
    """A list of labelled images of one size."""

    labels: torch.Tensor
    """The target of each unchanged image, (n, ...): in classification its class index, int64 (n,)."""

    decodes: bool = False
    """Whether loading takes long enough to be worth doing ahead of time."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def digest(self) -> str:
        """Identifies the images by their content: see :mod:`tvmfbnet.data.fingerprint`."""

    @abstractmethod
    def load(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """The images at ``indices`` as uint8 (n, channels, height, width), augmented by ``draws``."""

    def targets(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """The targets of what :meth:`load` gives: other ones than of the unchanged images where these tell places."""
        return self.labels[indices]

    def unchanged_targets(self, indices: torch.Tensor) -> torch.Tensor:
        """The targets of unchanged images."""
        return self.targets(indices, Augment(), None)

    def take(self, indices: torch.Tensor, augment: Augment, generator: torch.Generator) -> torch.Tensor:
        """The images at ``indices`` as uint8 (n, channels, height, width), augmented at random as ``augment`` says."""
        return self.load(indices, augment, augment.draw(len(indices), generator))


@dataclass(frozen=True)
class ImageData:
    """A data set, ready for a space: its images have the space's size and channels.

    ``mean`` and ``std`` (one per channel, for pixels in 0..1) normalise a batch.
    ``class_names`` are those of a net's outputs, in order; empty if unknown. ``task`` is what the targets are for, one
    of :data:`tvmfbnet.tasks.TASK_NAMES`; ``classes`` is how many outputs that takes.
    """

    name: str
    classes: int
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    task: str = "classification"

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the data set by its content, not by its place: see :mod:`tvmfbnet.data.fingerprint`."""
        return joined_digest([self.name, self.train.digest, self.test.digest])

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, c, h, w) -> float32 of mean 0 and deviation 1."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std).view(1, -1, 1, 1) * 255
        return (pixels.float() - mean) / std


class TensorImages(Images):
    """Images in memory.

    Args:
        pixels: uint8 (n, channels, height, width), already of the final size.
        labels: int64 (n,).
        digest: of the images before they were brought to that size; made of ``pixels`` if empty.
    """

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, digest: str = "") -> None:
        self.pixels, self.labels, self._digest = pixels, labels, digest

    @property
    def digest(self) -> str:
        """See :attr:`Images.digest`."""
        return self._digest or of_tensors(self.pixels, self.labels)

    def load(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.load`."""
        batch = self.pixels[indices]
        if draws is None:
            return batch
        batch = moved(batch, augment, draws)
        if augment.per_image:
            pairs = zip(batch, draws.tolist(), strict=True)
            batch = torch.stack([augment_image(image, augment, row) for image, row in pairs])
        return batch


def moved(batch: torch.Tensor, augment: Augment, draws: torch.Tensor) -> torch.Tensor:
    """Images or masks (n, channels, height, width), mirrored and shifted; what comes into view is 0."""
    if augment.flip:
        batch = torch.where((draws[:, FLIP] < 0.5).view(-1, 1, 1, 1), batch.flip(3), batch)
    return _shift(batch, augment.shift, draws) if augment.shift else batch


def shift_offsets(most: int, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where images that are shifted begin in themselves with a border of ``most`` pixels: rows and columns, int64 (n,).

    An image moves down by ``most`` less its row, and right by ``most`` less its column.
    """
    top, left = ((draws[:, place] * (2 * most + 1)).long() for place in (TOP, LEFT))
    return top, left


def _shift(batch: torch.Tensor, most: int, draws: torch.Tensor) -> torch.Tensor:
    """Moves each image by up to ``most`` pixels in both directions, filling with zeros."""
    count, _, height, width = batch.shape
    padded = F.pad(batch, (most, most, most, most))
    top, left = shift_offsets(most, draws)
    rows = (top.view(-1, 1) + torch.arange(height)).view(count, 1, height, 1)
    columns = (left.view(-1, 1) + torch.arange(width)).view(count, 1, 1, width)
    channels = torch.arange(batch.shape[1]).view(1, -1, 1, 1)
    return padded[torch.arange(count).view(-1, 1, 1, 1), channels, rows, columns]


def crop_of(draw: list[float], rows: int, columns: int) -> tuple[int, int, int, int]:
    """The random crop of an image of a folder: its first row and column, its height and width, in pixels."""
    side = (0.25 + 0.75 * draw[AREA]) ** 0.5
    height, width = max(1, round(rows * side)), max(1, round(columns * side))
    return int((rows - height + 1) * draw[TOP]), int((columns - width + 1) * draw[LEFT]), height, width


class FolderImages(Images):
    """Image files, decoded on demand.

    Evaluation: the shorter side is scaled to 8/7 of the input size (256 for 224), then the centre is cropped.
    Training: a random crop of 25 to 100 % of the area, scaled to the input size (Szegedy et al. 2015).

    Args:
        files: one per image.
        root: the folder that holds a folder for each class.
        labels: int64 (n,).
        channels, height, width: of the images that are handed out.
    """

    decodes = True

    def __init__(
        self, files: list[Path], root: Path, labels: torch.Tensor, channels: int, height: int, width: int
    ) -> None:
        self.files, self.labels = files, labels
        self.channels, self.height, self.width = channels, height, width
        self._root = root

    @cached_property
    def digest(self) -> str:
        """See :attr:`Images.digest`; DataError when a file cannot be read."""
        return of_files(self.files, self._root)

    def load(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.load`; raises DataError if a file is not an image."""
        rows = draws.tolist() if draws is not None else [None] * len(indices)
        with ThreadPoolExecutor(max_workers=min(8, allowed_cores())) as pool:  # decoding leaves Python's lock
            load = pool.map(lambda index, row: self._load(self.files[index], augment, row), indices.tolist(), rows)
            return torch.stack(list(load))

    def _load(self, file: Path, augment: Augment, draw: list[float] | None) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as tv

        from tvmfbnet.data.formats import read_image

        image = read_image(file, self.channels)
        if draw is not None and augment.flip and draw[FLIP] < 0.5:
            image = tv.horizontal_flip(image)
        image = self._cut(image, draw if augment.shift else None)
        return augment_image(image, augment, draw) if draw is not None and augment.per_image else image

    def _cut(self, image: torch.Tensor, draw: list[float] | None, smooth: bool = True) -> torch.Tensor:
        """A random crop, or the centre without a draw, at the input size; of numbers of classes without smoothing."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as tv

        size = [self.height, self.width]
        mode = InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST
        if draw is not None:
            top, left, height, width = crop_of(draw, image.shape[1], image.shape[2])
            cut: torch.Tensor = tv.resized_crop(image, top, left, height, width, size, mode, smooth)
            return cut
        scale = max(self.height / image.shape[1], self.width / image.shape[2]) * 8 / 7
        scaled = [max(side, round(old * scale)) for side, old in zip(size, image.shape[1:], strict=True)]
        return tv.center_crop(tv.resize(image, scaled, mode, antialias=smooth), size)  # type: ignore[no-any-return]
