"""Images with boxes in COCO's layout, decoded on demand: boxes follow their image through crops and mirrors.

A whole image is brought to the net's size, whatever its own proportions, as SSD does; for training, a random crop.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from tvmfbnet.data.augment import FLIP, Augment
from tvmfbnet.data.coco_places import CocoPart, coco_parts
from tvmfbnet.data.fingerprint import joined_digest, of_files, of_tensors
from tvmfbnet.data.folders import IMAGENET_MEAN, IMAGENET_STD
from tvmfbnet.data.images import FolderImages, ImageData, crop_of
from tvmfbnet.errors import DataError

# More boxes of an image are left out, the smallest first.
MOST_BOXES = 100


class CocoImages(FolderImages):
    """Images and their boxes.

    Args:
        part: which.
        task: ``detection``: targets (n, most, 5) as :mod:`tvmfbnet.tasks.detection` has them; ``multi_label``: (n,
            classes), whether an image has a box of a class.
        channels, height, width: of the images that are handed out.
    """

    def __init__(self, part: CocoPart, task: str, channels: int, height: int, width: int) -> None:
        self._task, self._part = task, part
        boxes = _padded(part)
        if task == "multi_label":
            kinds = torch.nn.functional.one_hot(boxes[..., 0].long(), len(part.class_names) + 1)
            targets = kinds.amax(dim=1)[:, 1:].float()
        else:
            targets = boxes
        super().__init__([image.file for image in part.images], part.folder, targets, channels, height, width)

    @cached_property
    def digest(self) -> str:
        """Of images and targets; DataError when a file cannot be read."""
        return joined_digest([of_files(self.files, self._part.folder), of_tensors(self.labels, torch.zeros(0))])

    def targets(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Images.targets`; DataError for an augmentation that boxes cannot follow."""
        targets = self.labels[indices]
        if draws is None or self._task != "detection":
            return targets
        if augment.trivial:
            raise DataError("augment_trivial turns and shears images, and boxes tell places: set it to false")
        sizes = [self._part.images[index].size for index in indices.tolist()]
        rows = zip(targets, draws.tolist(), sizes, strict=True)
        return torch.stack([_moved(boxes, augment, draw, size) for boxes, draw, size in rows])

    def _cut(self, image: torch.Tensor, draw: list[float] | None, smooth: bool = True) -> torch.Tensor:
        """A random crop, or without a draw the whole image, at the input size."""
        from torchvision.transforms.v2 import functional as tv

        if draw is not None:
            return super()._cut(image, draw, smooth)
        return tv.resize(image, [self.height, self.width], antialias=True)  # type: ignore[no-any-return]


def _padded(part: CocoPart) -> torch.Tensor:
    """All images' boxes, filled up with zeros: float32 (n, most, 5)."""
    most = min(MOST_BOXES, max(1, *(len(image.boxes) for image in part.images)))
    padded = torch.zeros(len(part.images), most, 5)
    for row, image in zip(padded, part.images, strict=True):
        largest = sorted(image.boxes, key=lambda box: -(box[3] - box[1]) * (box[4] - box[2]))[:most]
        if largest:
            row[: len(largest)] = torch.tensor(largest)
    return padded


def _moved(boxes: torch.Tensor, augment: Augment, draw: list[float], size: tuple[int, int]) -> torch.Tensor:
    """Boxes (most, 5) after a mirror and a crop; of those that are cut, what is left where their centre is.

    Args:
        boxes: of one image.
        augment, draw: what happened to it.
        size: its columns and rows, pixels.
    """
    kind, left, top, right, bottom = boxes.unbind(dim=1)
    if augment.flip and draw[FLIP] < 0.5:
        left, right = 1 - right, 1 - left
    corners = torch.stack([left, top, right, bottom], dim=1)
    if augment.shift:
        columns, rows = size
        first_row, first_column, height, width = crop_of(draw, rows, columns)
        corners = corners * torch.tensor([columns, rows, columns, rows]) - torch.tensor([first_column, first_row] * 2)
        corners = corners / torch.tensor([width, height, width, height])
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    stays = (kind > 0) & ((centre > 0) & (centre < 1)).all(dim=1)
    return torch.cat([kind.unsqueeze(1), corners.clamp(0, 1)], dim=1) * stays.unsqueeze(1)


def load_coco(folder: Path, task: str, height: int, width: int, channels: int) -> ImageData:
    """The images of a folder in COCO's layout (:mod:`tvmfbnet.data.coco_places`).

    Args:
        folder: the data set.
        task: which targets.
        height, width, channels: what images are brought to when they are loaded; 1 or 3 channels.

    Raises:
        DataError: files are missing or malformed.
    """
    train, test = (CocoImages(part, task, channels, height, width) for part in coco_parts(folder))
    names = coco_parts(folder)[0].class_names
    names = ("background", *names) if task == "detection" else names
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return ImageData("coco", len(names), train, test, mean, std, names, task)
