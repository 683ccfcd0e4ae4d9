"""Image files with masks, decoded on demand: whatever happens to the places of an image happens to its mask."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from os.path import commonpath
from pathlib import Path

import numpy as np
import torch

from tvmfbnet.data.augment import FLIP, Augment
from tvmfbnet.data.fingerprint import of_files
from tvmfbnet.data.folders import IMAGENET_MEAN, IMAGENET_STD
from tvmfbnet.data.formats import reason
from tvmfbnet.data.images import FolderImages, ImageData
from tvmfbnet.data.mask_places import masked_files
from tvmfbnet.errors import DataError
from tvmfbnet.machine import allowed_cores

_NO_CLASS = -1


class MaskFolderImages(FolderImages):
    """Images and masks in files; ``labels`` are the images' numbers, as masks are read when they are asked for.

    Args:
        pairs: an image and its mask each.
        codes: class of each value of a mask's pixels.
        channels, height, width: of the images that are handed out.
    """

    def __init__(
        self, pairs: tuple[tuple[Path, Path], ...], codes: Mapping[int, int], channels: int, height: int, width: int
    ) -> None:
        images, self._masks = ([pair[side] for pair in pairs] for side in (0, 1))
        super().__init__(images, Path(commonpath(images)).parent, torch.arange(len(pairs)), channels, height, width)
        table = [codes.get(value, _NO_CLASS) for value in range(256)]
        self._table = torch.tensor(table, dtype=torch.int16)

    @cached_property
    def digest(self) -> str:
        """Of images and masks; DataError when a file cannot be read."""
        files = [*self.files, *self._masks]
        return of_files(files, Path(commonpath(files)))

    def targets(self, indices: torch.Tensor, augment: Augment, draws: torch.Tensor | None) -> torch.Tensor:
        """Masks of classes, uint8 (n, height, width); DataError where a mask does not fit its image or its classes."""
        if draws is not None and augment.trivial:
            raise DataError("augment_trivial turns and shears images, and masks tell places: set it to false")
        rows = draws.tolist() if draws is not None else [None] * len(indices)
        with ThreadPoolExecutor(max_workers=min(8, allowed_cores())) as pool:
            masks = pool.map(lambda index, row: self._mask(index, augment, row), indices.tolist(), rows)
            return torch.stack(list(masks))

    def _mask(self, index: int, augment: Augment, draw: list[float] | None) -> torch.Tensor:
        from torchvision.transforms.v2 import functional as tv

        values = read_mask(self._masks[index], self.files[index])
        if draw is not None and augment.flip and draw[FLIP] < 0.5:
            values = tv.horizontal_flip(values)
        values = self._cut(values, draw if augment.shift else None, smooth=False)
        classes = self._table[values[0].long()]
        if bool((classes == _NO_CLASS).any()):
            value = int(values[0][classes == _NO_CLASS][0])
            raise DataError(f"{self._masks[index]} has pixels of value {value}, which is no class")
        return classes.to(torch.uint8)


def read_mask(path: Path, image: Path) -> torch.Tensor:
    """The values of a mask's pixels, uint8 (1, height, width): of a palette image the indices.

    Args:
        path: the mask.
        image: what it is of, which must have its size.

    Raises:
        DataError: it is no image of one channel of 8 bits, or of another size.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(image) as shown:
            size = ImageOps.exif_transpose(shown).size if shown.getexif().get(0x0112, 1) != 1 else shown.size
        with Image.open(path) as opened:
            mode, values = opened.mode, np.array(opened)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError(f"{path} or its image cannot be read ({reason(error)}); get it again") from error
    if mode not in ("L", "P", "1"):
        raise DataError(f"{path} has colours (mode {mode}): a mask has one value per pixel, the number of its class")
    if values.shape != (size[1], size[0]):
        raise DataError(f"{path} is {values.shape[1]}x{values.shape[0]}, its image {size[0]}x{size[1]}")
    return torch.from_numpy(values.astype(np.uint8)).unsqueeze(0)


def load_mask_folders(folder: Path, height: int, width: int, channels: int) -> ImageData:
    """The images of a folder with their masks (:mod:`tvmfbnet.data.mask_places`).

    Args:
        folder: the data set.
        height, width, channels: what images are brought to when they are loaded; 1 or 3 channels.

    Raises:
        DataError: folders or masks are missing.
    """
    files = masked_files(folder)
    train, test = (MaskFolderImages(pairs, files.codes, channels, height, width) for pairs in files.parts)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    names = files.class_names
    return ImageData("maskfolder", len(names), train, test, mean, std, names, "segmentation")
