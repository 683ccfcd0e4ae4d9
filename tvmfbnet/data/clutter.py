"""Cluttered Fashion-MNIST: objects at a random place, size and rotation among pieces of other objects.

A task on which architectures differ, for testing a search on two CPU cores: a net needs a large receptive field and
enough capacity, which the centred 28x28 originals do not ask for. In the manner of the cluttered MNIST of Mnih et al.
2014 ("Recurrent Models of Visual Attention"), made of Fashion-MNIST's files. It is no stand-in for photos: grey, ten
classes, one light, no perspective.

Every image follows from the options and its index, so a data set can have any number of training images, and the same
spec gives the same images again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from tvmfbnet.data.clutter_options import OBJECT_SIDE, ClutterOptions

PIECE_SIDE = 10
# Images are rendered in chunks of this many, to bound the memory that their transforms take.
_CHUNK = 500


def render(
    originals: torch.Tensor, shown: torch.Tensor, options: ClutterOptions, height: int, width: int, stream: int
) -> torch.Tensor:
    """Draws one image around each of the chosen objects.

    Args:
        originals: uint8 (m, 28, 28), the objects; pieces are cut from them as well.
        shown: int64 (n,), which object each image shows.
        options: how.
        height, width: of the images, pixels.
        stream: sets with different numbers share no random numbers.

    Returns:
        uint8 (n, 1, height, width).
    """
    generator = torch.Generator().manual_seed(2 * options.seed + stream)
    parts = (shown[start : start + _CHUNK] for start in range(0, len(shown), _CHUNK))
    return torch.cat([_render(originals, part, options, height, width, generator) for part in parts])


def _render(
    originals: torch.Tensor,
    shown: torch.Tensor,
    options: ClutterOptions,
    height: int,
    width: int,
    generator: torch.Generator,
) -> torch.Tensor:
    places = draw_places(len(shown), options.smallest, options.largest, options.turn, height, width, generator)
    objects = place_objects(originals[shown], places, height, width)
    return torch.maximum(objects, _clutter(originals, len(shown), options.pieces, height, width, generator))


@dataclass(frozen=True)
class Places:
    """Where n objects lie.

    Attributes:
        side: in pixels, float32 (n,).
        angle: in radians, (n,).
        centre_x, centre_y: from -1, the left or upper border of the image, to 1, (n,).
    """

    side: torch.Tensor
    angle: torch.Tensor
    centre_x: torch.Tensor
    centre_y: torch.Tensor


def draw_places(
    count: int, smallest: float, largest: float, turn: float, height: int, width: int, generator: torch.Generator
) -> Places:
    """Random places, of objects that are whole within the image while not turned.

    Args:
        count: of the objects.
        smallest, largest: side, as a share of the image's shorter side.
        turn: largest rotation, degrees, either way.
        height, width: of the images, pixels.
        generator: of the random numbers.
    """
    draws = torch.rand(count, 4, generator=generator)
    side = (smallest + (largest - smallest) * draws[:, 0]) * min(height, width)
    angle = math.radians(turn) * (2 * draws[:, 1] - 1)
    centre_x = (side / 2 + (width - side) * draws[:, 2]) * 2 / width - 1
    centre_y = (side / 2 + (height - side) * draws[:, 3]) * 2 / height - 1
    return Places(side, angle, centre_x, centre_y)


def place_objects(objects: torch.Tensor, places: Places, height: int, width: int) -> torch.Tensor:
    """Objects, uint8 (n, 28, 28), scaled, turned and moved, each on a black image of its own: uint8 (n, 1, h, w)."""
    cos, sin = torch.cos(places.angle), torch.sin(places.angle)
    # affine_grid asks where each output pixel comes from, in units of half the image: the inverse of the placement.
    rows = torch.stack([torch.stack([cos * width, sin * height], 1), torch.stack([-sin * width, cos * height], 1)], 1)
    scaled = rows / places.side.view(-1, 1, 1)
    offset = -(scaled @ torch.stack([places.centre_x, places.centre_y], 1).unsqueeze(2))
    grid = F.affine_grid(torch.cat([scaled, offset], 2), [len(objects), 1, height, width], align_corners=False)
    placed = F.grid_sample(objects.unsqueeze(1).float(), grid, mode="bilinear", align_corners=False)
    return placed.round().clamp(0, 255).to(torch.uint8)


def _clutter(
    originals: torch.Tensor, count: int, pieces: int, height: int, width: int, generator: torch.Generator
) -> torch.Tensor:
    """Pieces of random objects at random places: uint8 (count, 1, height, width)."""
    canvas = torch.zeros(count, height * width, dtype=torch.uint8)
    if pieces == 0:
        return canvas.view(count, 1, height, width)
    draws = torch.rand(count, pieces, 5, generator=generator)
    source = (draws[..., 0] * len(originals)).long()
    square = torch.arange(PIECE_SIDE)

    def corners(draw: torch.Tensor, span: int) -> torch.Tensor:
        return (draw * (span - PIECE_SIDE + 1)).long().unsqueeze(2)

    cut_rows, cut_columns = (corners(draws[..., place], OBJECT_SIDE) + square for place in (1, 2))
    rows, columns = (corners(draws[..., place], span) + square for place, span in ((3, height), (4, width)))
    pixels = originals[source[..., None, None], cut_rows.unsqueeze(3), cut_columns.unsqueeze(2)]
    places = rows.unsqueeze(3) * width + columns.unsqueeze(2)
    canvas.scatter_reduce_(1, places.flatten(1), pixels.flatten(1), reduce="amax")
    return canvas.view(count, 1, height, width)


def brightness(images: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all pixels (0 to 1), two decimals: independent of the last bit's rounding."""
    sample = images[:5000].float() / 255
    return round(float(sample.mean()), 2), round(float(sample.std()), 2)
