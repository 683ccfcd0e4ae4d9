"""Boxes as corners (left, top, right, bottom) and as centre and size, and as offsets from anchors, as SSD has them."""

from __future__ import annotations

import torch

# How SSD scales offsets of centres and of sizes, so that both are of ordinary size.
_CENTRE, _SIZE = 0.1, 0.2
# Sizes grow at most by this power of e: an untrained net's offsets are anything.
_MOST = 4.0


def as_corners(boxes: torch.Tensor) -> torch.Tensor:
    """Centre and size (..., 4) to corners."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def as_centres(boxes: torch.Tensor) -> torch.Tensor:
    """Corners (..., 4) to centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def encoded(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The offsets of boxes, as corners, from anchors, as centre and size: both (..., 4)."""
    given = as_centres(boxes)
    centre = (given[..., :2] - anchors[..., :2]) / anchors[..., 2:] / _CENTRE
    size = (given[..., 2:].clamp_min(1e-6) / anchors[..., 2:]).log() / _SIZE
    return torch.cat([centre, size], dim=-1)


def decoded(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The boxes, as corners, that :func:`encoded` gives these offsets for."""
    centre = anchors[..., :2] + offsets[..., :2] * _CENTRE * anchors[..., 2:]
    half = anchors[..., 2:] * (offsets[..., 2:] * _SIZE).clamp(-_MOST, _MOST).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def overlap(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union of corners (n or 1, a, 4) with corners (n, b, 4): (n, a, b)."""
    one, other = boxes.unsqueeze(2), others.unsqueeze(1)
    sides = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp_min(0)
    shared = sides.prod(dim=-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp_min(0).prod(dim=-1) for each in (one, other)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-9)
