"""Inputs of parts, separate from the export because this module does not load torch."""

from __future__ import annotations

from tvmfbnet.dtypes import DType
from tvmfbnet.space.heads import HEAD_RESIZE
from tvmfbnet.space.space import HEAD_LINEAR, STEM, NetPart


def part_input_shape(part: NetPart, batch: int = 1) -> tuple[int, ...]:
    """Shape of a part's input as exported: NHWC inside the net, NCHW for the images, (N, C) at its end."""
    if part.part == STEM:
        return (batch, part.cin, part.height, part.width)
    if part.part == HEAD_LINEAR:
        return (batch, part.cin)
    return (batch, part.height, part.width, part.cin)


def part_input_type(part: NetPart, dtype: DType) -> str:
    """Name of the type of a part's input as exported: the image's for the stem, else that of activations.

    Logits that a quantised net enlarges are floats (:mod:`tvmfbnet.compiler.float_tail`).
    """
    is_real = part.part == STEM or (dtype.is_quantised and part.part == HEAD_RESIZE)
    return dtype.boundary if is_real else dtype.name
