"""Random augmentation of training images with torchvision's v2 operations, driven by numbers that the caller draws.

torchvision's own random transforms draw from the process's one generator, so with several decoding threads a run could
not be repeated. Here a row of numbers in 0..1 determines all changes to an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tvmfbnet.data.rand_augment import rand_operation

FLIP, AREA, TOP, LEFT, BRIGHTNESS, CONTRAST, SATURATION, OPERATION, STRENGTH, ERASE, ERASE_TOP, ERASE_LEFT = range(12)
DRAWS = 12
"""Random numbers per image; the names above are their indices. RandAugment appends two for each operation."""

# The strongest changes that TrivialAugment makes.
_DEGREES, _SHEAR_DEGREES, _SHIFT_SHARE, _FACTOR = 30.0, 17.0, 0.25, 0.9
# Share of the image's sides that an erased rectangle takes.
_ERASED_SIDE = 0.4


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images.

    Args:
        shift: largest shift in pixels, each way and in both directions; uncovered pixels are zero. Folders of photos
            use a random resized crop instead whenever this is above 0.
        flip: mirror half of the images.
        colour: brightness, contrast and saturation vary by up to this factor, between 0 and 1.
        trivial: one random operation of random strength on each image (TrivialAugment, Müller and Hutter 2021).
        erase: share of the images of which a random rectangle is blanked (Zhong et al. 2020).
        rand_operations: random operations on each image (RandAugment, Cubuk et al. 2020).
        rand_magnitude: of these, between 0 and 1.
    """

    shift: int = 0
    flip: bool = False
    colour: float = 0.0
    trivial: bool = False
    erase: float = 0.0
    rand_operations: int = 0
    rand_magnitude: float = 0.0

    @property
    def per_image(self) -> bool:
        """Whether any per-image change is enabled."""
        return bool(self.colour or self.trivial or self.erase or self.rand_operations)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Random numbers in 0..1 that determine all changes to ``count`` images, one row per image; None for no change.

        An image's changes depend on its own row alone, so any process may load images in any order.
        """
        if not (self.shift or self.flip or self.per_image):
            return None
        return torch.rand(count, DRAWS + 2 * self.rand_operations, generator=generator)


def augment_image(image: torch.Tensor, augment: Augment, draw: list[float]) -> torch.Tensor:
    """Colour, TrivialAugment, RandAugment and erasing for one image, uint8 (channels, height, width)."""
    from torchvision.transforms.v2 import functional as tv

    if augment.colour:
        factors = [1 + augment.colour * (2 * draw[place] - 1) for place in (BRIGHTNESS, CONTRAST, SATURATION)]
        image = tv.adjust_contrast(tv.adjust_brightness(image, factors[0]), factors[1])
        if image.shape[0] == 3:
            image = tv.adjust_saturation(image, factors[2])
    if augment.trivial:
        image = _trivial(image, draw[OPERATION], 2 * draw[STRENGTH] - 1)
    for place in range(DRAWS, DRAWS + 2 * augment.rand_operations, 2):
        image = rand_operation(image, draw[place], draw[place + 1], augment.rand_magnitude)
    if draw[ERASE] < augment.erase:
        height, width = (max(1, round(side * _ERASED_SIDE)) for side in image.shape[1:])
        top = int((image.shape[1] - height + 1) * draw[ERASE_TOP])
        left = int((image.shape[2] - width + 1) * draw[ERASE_LEFT])
        image = tv.erase(image, top, left, height, width, torch.zeros((), dtype=image.dtype))
    return image


def _trivial(image: torch.Tensor, choice: float, strength: float) -> torch.Tensor:
    """One of eleven operations, chosen by ``choice`` in 0..1, at ``strength`` in -1..1."""
    from torchvision.transforms.v2 import functional as tv

    factor, weak = 1 + _FACTOR * strength, 1 - abs(strength)
    zero = [0.0, 0.0]
    operations = (
        lambda: image,
        lambda: tv.autocontrast(image),
        lambda: tv.equalize(image),
        lambda: tv.adjust_brightness(image, factor),
        lambda: tv.adjust_contrast(image, factor),
        lambda: tv.adjust_sharpness(image, factor),
        lambda: tv.posterize(image, 2 + round(6 * weak)),
        lambda: tv.solarize(image, 255 * weak),
        lambda: tv.rotate(image, _DEGREES * strength),
        lambda: tv.affine(image, 0.0, [0, 0], 1.0, [_SHEAR_DEGREES * strength, 0.0]),
        lambda: tv.affine(image, 0.0, [round(_SHIFT_SHARE * strength * image.shape[2]), 0], 1.0, zero),
    )
    changed: torch.Tensor = operations[min(int(choice * len(operations)), len(operations) - 1)]()
    return changed
