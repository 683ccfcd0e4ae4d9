"""RandAugment (Cubuk et al. 2020): some random operations on each image, all of one magnitude.

The fourteen operations and their ranges are torchvision's, driven by numbers that the caller draws: see
:mod:`tvmfbnet.data.augment`.
"""

from __future__ import annotations

import math

import torch

# At full magnitude: shear, share of the side that is shifted, degrees, factor of colours.
_SHEAR, _SHIFT_SHARE, _DEGREES, _FACTOR = 0.3, 150.0 / 331.0, 30.0, 0.9
OPERATIONS = 14


def rand_operation(image: torch.Tensor, choice: float, sign: float, magnitude: float) -> torch.Tensor:
    """One operation on an image, uint8 (channels, height, width).

    Args:
        image: to change; it stays as it is.
        choice: which operation, in 0..1.
        sign: below 0.5, operations with a direction go the other way.
        magnitude: how strong, in 0..1.
    """
    from torchvision.transforms.v2 import functional as tv

    signed = magnitude if sign >= 0.5 else -magnitude
    factor, shear, zero = 1 + _FACTOR * signed, math.degrees(math.atan(_SHEAR * signed)), [0.0, 0.0]
    across, down = (round(_SHIFT_SHARE * signed * side) for side in (image.shape[2], image.shape[1]))
    operations = (
        lambda: image,
        lambda: tv.affine(image, 0.0, [0, 0], 1.0, [shear, 0.0], center=[0.0, 0.0]),
        lambda: tv.affine(image, 0.0, [0, 0], 1.0, [0.0, shear], center=[0.0, 0.0]),
        lambda: tv.affine(image, 0.0, [across, 0], 1.0, zero),
        lambda: tv.affine(image, 0.0, [0, down], 1.0, zero),
        lambda: tv.rotate(image, _DEGREES * signed),
        lambda: tv.adjust_brightness(image, factor),
        lambda: tv.adjust_saturation(image, factor) if image.shape[0] == 3 else image,
        lambda: tv.adjust_contrast(image, factor),
        lambda: tv.adjust_sharpness(image, factor),
        lambda: tv.posterize(image, 8 - round(4 * magnitude)),
        lambda: tv.solarize(image, 255 * (1 - magnitude)),
        lambda: tv.autocontrast(image),
        lambda: tv.equalize(image),
    )
    changed: torch.Tensor = operations[min(int(choice * OPERATIONS), OPERATIONS - 1)]()
    return changed
