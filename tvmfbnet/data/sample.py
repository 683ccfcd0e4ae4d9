"""A few images of a data set, evenly spaced: test images to compare a compiled net's answers with the float32 net's,
and training images to calibrate the ranges of a quantised net.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import UserError
from tvmfbnet.progress import say

# Enough to tell a percent of them apart.
IMAGES = 1000
# Ranges are those of the smallest and largest activations among these.
CALIBRATION_IMAGES = 128


def sample_images(
    spec: str, height: int, width: int, channels: int, classes: int, count: int = IMAGES
) -> tuple[torch.Tensor, torch.Tensor, str] | None:
    """Test images, normalised, float32 (n, channels, height, width), their targets (n, ...), and the task of these.

    None, with a note, where the data is not there.

    Args:
        spec: a data set, as for :func:`tvmfbnet.data.datasets.load_data`, and so are the others.
        height: of the images.
        width: of the images.
        channels: of the images.
        classes: of the net.
        count: how many; all of a smaller test set.
    """
    try:
        data = load_data(spec, height, width, channels, classes)
    except UserError as error:
        say(f"note: classes are not compared with the float32 net's: {error}")
        return None
    total = len(data.test)
    chosen = torch.linspace(0, total - 1, min(count, total)).round().long()
    pixels = data.normalise(data.test.load(chosen, Augment(), None))
    return pixels, data.test.unchanged_targets(chosen), data.task


def calibration_images(
    spec: str, height: int, width: int, channels: int, classes: int, count: int = CALIBRATION_IMAGES
) -> list[npt.NDArray[Any]]:
    """Normalised training images, each float32 (1, channels, height, width); arguments as for :func:`sample_images`.

    Raises:
        UserError: the data is not there.
    """
    data = load_data(spec, height, width, channels, classes)
    total = len(data.train)
    chosen = torch.linspace(0, total - 1, min(count, total)).round().long()
    images = data.normalise(data.train.load(chosen, Augment(), None))
    return [image[None].numpy() for image in images]
