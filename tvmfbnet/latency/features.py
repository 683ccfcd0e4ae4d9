"""Features of a part for the regressor: amounts of work for the base model, shapes for the trees, coordinates for the
Gaussian process.

All follow from the part and the bytes of its elements (no device, no measurement). Memory is in bytes where the base
model weighs it against arithmetic. Shapes and coordinates count elements: in one dtype that is the same up to a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.convs import Conv
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.space import BLOCK, NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Kinds of convs with different costs per MAC; a depthwise conv is large from 5x5 on. The pool counts as one, too.
KINDS = ("pointwise", "grouped", "depthwise", "large_depthwise", "dense", "linear", "pool")

SHAPES = (
    *("cin", "cout", "height", "stride", "kernel", "expansion", "groups", "inner", "residual"),
    *("kind", "original_height", "log_macs", "log_params", "log_depthwise_macs", "log_activations", "log_input"),
    *("log_output", "log_intensity", "log_inner", "log_cin", "log_depthwise_input", "log_cin_per_group"),
    *("log_largest_weights", "log_channels"),
)


# Coordinates of a part for the Gaussian process, scaled so that a step of 1 is a doubling of a size.
COORDINATES = ("cin", "cout", "out_pixels", "stride", "expansion", "kernel", "groups", "is_single")
# Those that differ between blocks of one layer shape.
WITHIN_SHAPE = slice(4, 8)
LOADS = ("macs", "working_set", "activations", "weights", "largest_weights", "inner", "depthwise_macs", "other_macs")


@dataclass(frozen=True)
class ConvTable:
    """The convs of some parts, in order: the input of the base model. All arrays are (convs,).

    Attributes:
        parts: number of parts.
        element_bytes: of one activation or weight.
        part: index of the part that each conv belongs to.
        kind: index into ``KINDS``.
        macs: multiply-accumulates.
        channels_in: that each output sees (of one group).
        channels_out: of one group; all of them for a depthwise conv.
        pixels: of the output.
        stride: in pixels of the input, one direction.
        moved_bytes: of the activations read and written.
        weight_bytes: of the kernel.
        shuffled_bytes: of the activations that a channel shuffle moves afterwards.
        residual_bytes: of the block's input where it is added.
    """

    parts: int
    element_bytes: int
    part: NDArray[np.int64]
    kind: NDArray[np.int64]
    macs: NDArray[np.float64]
    channels_in: NDArray[np.float64]
    channels_out: NDArray[np.float64]
    pixels: NDArray[np.float64]
    stride: NDArray[np.float64]
    moved_bytes: NDArray[np.float64]
    weight_bytes: NDArray[np.float64]
    shuffled_bytes: NDArray[np.float64]
    residual_bytes: NDArray[np.float64]

    @property
    def is_pointwise(self) -> NDArray[np.bool_]:
        """1x1 convs, grouped ones included."""
        return np.isin(self.kind, (KINDS.index("pointwise"), KINDS.index("grouped")))

    @property
    def is_depthwise(self) -> NDArray[np.bool_]:
        """Depthwise convs of any size."""
        return np.isin(self.kind, (KINDS.index("depthwise"), KINDS.index("large_depthwise")))

    def by_part(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of ``values`` (convs,) over the convs of each part: (parts,)."""
        return np.bincount(self.part, values, self.parts).astype(np.float64)

    @cached_property
    def owners(self) -> NDArray[np.float64]:
        """1 where a conv belongs to a part: (parts, convs)."""
        return np.asarray(np.arange(self.parts)[:, None] == self.part[None], dtype=np.float64)


def conv_table(parts: Sequence[NetPart], element_bytes: int = FLOAT32.bytes) -> ConvTable:
    """The convs of ``parts`` as arrays; a part without convs (the pool) has one row of its own kind."""
    rows = [(index, *row) for index, part in enumerate(parts) for row in _conv_rows(part)]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 11).T
    columns[7:] *= element_bytes
    part, kind = columns[0].astype(np.int64), columns[1].astype(np.int64)
    return ConvTable(len(parts), element_bytes, part, kind, *columns[2:])


def shapes(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Shape features of each part: (parts, len(SHAPES))."""
    return np.array([_shapes(part) for part in parts], dtype=np.float64).reshape(len(parts), len(SHAPES))


def coordinates(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Coordinates of each part in the space of blocks: (parts, len(COORDINATES))."""
    return np.array([_coordinates(part) for part in parts], dtype=np.float64).reshape(len(parts), len(COORDINATES))


def loads(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Logarithms of the work and memory of each part: (parts, len(LOADS))."""
    return np.array([_loads(part) for part in parts], dtype=np.float64).reshape(len(parts), len(LOADS))


def _coordinates(part: NetPart) -> list[float]:
    spec = parse_block(part.block) if part.part == BLOCK else None
    expansion, kernel, groups = (_inner(part) / part.cin, spec.kernel, spec.groups) if spec else (1.0, 1, 1)
    sizes = (part.cin, part.cout, part.out_height * part.out_width, part.stride**2, expansion, kernel**2, groups**2)
    return [*(math.log2(size) for size in sizes), 0.0 if spec else 2.0]


def _loads(part: NetPart) -> list[float]:
    convs = convs_of(part)
    elements = part.cin * part.height * part.width
    depthwise = sum(conv.macs for conv in convs if conv.kind == "depthwise")
    macs = sum(conv.macs for conv in convs) or elements
    values = (
        macs,
        max((_inputs(conv) + conv.outputs + conv.weights for conv in convs), default=2 * elements),
        sum(_inputs(conv) + conv.outputs for conv in convs) or elements,
        sum(conv.weights for conv in convs)
        + 1e3,  # the constant keeps negligible amounts from spreading out in logarithms
        max((conv.weights for conv in convs), default=1) + 1e2,
        max((conv.outputs for conv in convs), default=elements),
        depthwise + 1e3,
        macs - depthwise + 1e3,
    )
    return [math.log(value) for value in values]


def _conv_rows(part: NetPart) -> list[tuple[float, ...]]:
    """The fields of :class:`ConvTable` from ``kind`` on, for each conv; memory in elements."""
    convs = convs_of(part)
    if not convs:
        elements = part.cin * part.height * part.width
        pixels = part.out_height * part.out_width
        return [(KINDS.index("pool"), elements, 1, part.cin, pixels, 1, elements, 0, 0, 0)]
    rows: list[tuple[float, ...]] = []
    for conv in convs:
        depthwise = conv.kind == "depthwise"
        shuffles = conv.kind == "pointwise" and conv.groups > 1 and conv.relu
        rows.append(
            (
                KINDS.index(_kind(conv)),
                conv.macs,
                conv.cin // conv.groups * (1 if depthwise else conv.kernel**2),
                conv.cout if depthwise else conv.cout // conv.groups,
                conv.outputs // conv.cout,
                conv.stride,
                _inputs(conv) + conv.outputs,
                conv.weights,
                conv.outputs if shuffles else 0,
                conv.outputs if conv.residual else 0,
            )
        )
    return rows


def _kind(conv: Conv) -> str:
    if conv.kind == "depthwise":
        return "depthwise" if conv.kernel <= 3 else "large_depthwise"
    return "grouped" if conv.kind == "pointwise" and conv.groups > 1 else conv.kind


def _inputs(conv: Conv) -> int:
    return conv.cin * conv.height * conv.width


def _inner(part: NetPart) -> int:
    """Channels inside a conv block: what its first conv gives."""
    return convs_of(part)[0].cout


def _shapes(part: NetPart) -> list[float]:
    convs = convs_of(part)
    spec = parse_block(part.block) if part.part == BLOCK else None
    kernel, groups = (spec.kernel, spec.groups) if spec else (0, 1)
    inner = _inner(part) if spec else part.cin
    expansion = inner / part.cin if spec else 0
    depthwise = [conv for conv in convs if conv.kind == "depthwise"]
    macs = sum(conv.macs for conv in convs)
    activations = sum(conv.outputs for conv in convs)
    plain = [part.cin, part.cout, part.height, part.stride, kernel, expansion, groups if spec else 0, inner]
    kind = kernel * 10 + expansion + 100 * (groups > 1) if spec else -1
    logs = [
        macs,
        sum(conv.params for conv in convs),
        sum(conv.macs for conv in depthwise),
        activations,
        part.cin * part.height * part.width,
        part.cout * part.out_height * part.out_width,
        macs / max(activations, 1),
        inner,
        part.cin,
        sum(_inputs(conv) for conv in depthwise),
        part.cin / groups,
        max((conv.weights for conv in convs), default=0),
        part.cin * part.cout,
    ]
    return [*plain, float(part.has_residual), kind, part.height * part.stride, *(math.log1p(value) for value in logs)]
