"""Random changes to training pictures, settled by numbers that the caller draws: torchvision's v2 operations.

torchvision's own random transforms draw from the process's one generator, so with several decoding threads a run could
not be repeated. Here a row of numbers in 0..1 settles all changes of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

FLIP, AREA, TOP, LEFT, BRIGHTNESS, CONTRAST, SATURATION, OPERATION, STRENGTH, ERASE, ERASE_TOP, ERASE_LEFT = range(12)
DRAWS = 12
"""Numbers a picture needs; the names before say what each is for."""

# The strongest changes that TrivialAugment makes.
_DEGREES, _SHEAR_DEGREES, _SHIFT_SHARE, _FACTOR = 30.0, 17.0, 0.25, 0.9
# Share of the picture's sides that an erased rectangle takes.
_ERASED_SIDE = 0.4


@dataclass(frozen=True)
class Augment:
    """Random changes to training pictures.

    Args:
        shift: largest shift in pixels, each way and in both directions; uncovered pixels are zero. Folders of photos
            use a random resized crop instead whenever this is above 0.
        flip: mirror half of the pictures.
        colour: brightness, contrast and saturation vary by up to this factor, between 0 and 1.
        trivial: one random operation of random strength on each picture (TrivialAugment, Müller and Hutter 2021).
        erase: share of the pictures of which a random rectangle is blanked (Zhong et al. 2020).
    """

    shift: int = 0
    flip: bool = False
    colour: float = 0.0
    trivial: bool = False
    erase: float = 0.0

    @property
    def per_picture(self) -> bool:
        """Whether changes are asked for that each picture gets on its own."""
        return bool(self.colour or self.trivial or self.erase)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Random numbers in 0..1 that settle all changes of ``count`` pictures, one row each; None for no change.

        A picture's changes depend on its own row alone, so pictures may be loaded in any order and by any process.
        """
        if not (self.shift or self.flip or self.per_picture):
            return None
        return torch.rand(count, DRAWS, generator=generator)


def change_picture(picture: torch.Tensor, augment: Augment, draw: list[float]) -> torch.Tensor:
    """Colour, TrivialAugment and erasing for one picture, uint8 (channels, height, width)."""
    from torchvision.transforms.v2 import functional as tv

    if augment.colour:
        factors = [1 + augment.colour * (2 * draw[place] - 1) for place in (BRIGHTNESS, CONTRAST, SATURATION)]
        picture = tv.adjust_contrast(tv.adjust_brightness(picture, factors[0]), factors[1])
        if picture.shape[0] == 3:
            picture = tv.adjust_saturation(picture, factors[2])
    if augment.trivial:
        picture = _trivial(picture, draw[OPERATION], 2 * draw[STRENGTH] - 1)
    if draw[ERASE] < augment.erase:
        height, width = (max(1, round(side * _ERASED_SIDE)) for side in picture.shape[1:])
        top = int((picture.shape[1] - height + 1) * draw[ERASE_TOP])
        left = int((picture.shape[2] - width + 1) * draw[ERASE_LEFT])
        picture = tv.erase(picture, top, left, height, width, torch.zeros((), dtype=picture.dtype))
    return picture


def _trivial(picture: torch.Tensor, choice: float, strength: float) -> torch.Tensor:
    """One of eleven operations, chosen by ``choice`` in 0..1, at ``strength`` in -1..1."""
    from torchvision.transforms.v2 import functional as tv

    factor, weak = 1 + _FACTOR * strength, 1 - abs(strength)
    zero = [0.0, 0.0]
    operations = (
        lambda: picture,
        lambda: tv.autocontrast(picture),
        lambda: tv.equalize(picture),
        lambda: tv.adjust_brightness(picture, factor),
        lambda: tv.adjust_contrast(picture, factor),
        lambda: tv.adjust_sharpness(picture, factor),
        lambda: tv.posterize(picture, 2 + round(6 * weak)),
        lambda: tv.solarize(picture, 255 * weak),
        lambda: tv.rotate(picture, _DEGREES * strength),
        lambda: tv.affine(picture, 0.0, [0, 0], 1.0, [_SHEAR_DEGREES * strength, 0.0]),
        lambda: tv.affine(picture, 0.0, [round(_SHIFT_SHARE * strength * picture.shape[2]), 0], 1.0, zero),
    )
    changed: torch.Tensor = operations[min(int(choice * len(operations)), len(operations) - 1)]()
    return changed
