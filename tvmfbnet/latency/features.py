"""What the regressor knows about a part: amounts of work for its base model, shapes for its trees, coordinates for its
Gaussian process.

All follow from the part alone (no device, no measurement), so a prediction needs nothing but the part's name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.counts import Conv, convs_of
from tvmfbnet.space.space import BLOCK, NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Amounts of work, each of which gets its own cost (ms a unit) in the base model.
WORK = ("pointwise", "pointwise_grouped", "depthwise_k3", "depthwise_large", "dense", "linear", "pool")
AMOUNTS = (
    *WORK,
    "depthwise_strided",
    "pointwise_elements",
    "depthwise_elements",
    "shuffled_elements",
    "residual_elements",
    "weights",
    "convs",
    "constant",
)

SHAPES = (
    *("cin", "cout", "height", "stride", "kernel", "expansion", "groups", "inner", "residual"),
    *("kind", "original_height", "log_macs", "log_params", "log_depthwise_macs", "log_activations", "log_input"),
    *("log_output", "log_intensity", "log_inner", "log_cin", "log_depthwise_input", "log_cin_per_group"),
    *("log_largest_weights", "log_channels"),
)


# Coordinates of a part for the Gaussian process, scaled so that a step of 1 is a doubling of a size.
COORDINATES = ("cin", "cout", "out_pixels", "stride", "expansion", "kernel", "groups", "is_single")
# Those of them that tell blocks of one layer shape apart.
WITHIN_SHAPE = slice(4, 8)
LOADS = ("macs", "working_set", "activations", "weights", "largest_weights", "inner", "depthwise_macs", "other_macs")


def amounts(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Work and traffic of each part: (parts, len(AMOUNTS)), in MACs and tensor elements."""
    return np.array([_amounts(part) for part in parts], dtype=np.float64).reshape(len(parts), len(AMOUNTS))


def shapes(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Shape features of each part: (parts, len(SHAPES))."""
    return np.array([_shapes(part) for part in parts], dtype=np.float64).reshape(len(parts), len(SHAPES))


def coordinates(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Where each part stands in the space of blocks: (parts, len(COORDINATES))."""
    return np.array([_coordinates(part) for part in parts], dtype=np.float64).reshape(len(parts), len(COORDINATES))


def loads(parts: Sequence[NetPart]) -> NDArray[np.float64]:
    """Logarithms of the work and memory of each part: (parts, len(LOADS))."""
    return np.array([_loads(part) for part in parts], dtype=np.float64).reshape(len(parts), len(LOADS))


def _coordinates(part: NetPart) -> list[float]:
    spec = parse_block(part.block) if part.part == BLOCK else None
    expansion, kernel, groups = (spec.expansion, spec.kernel, spec.groups) if spec else (1, 1, 1)
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
        sum(conv.weights for conv in convs) + 1e3,  # the summands keep what is next to nothing from counting as much
        max((conv.weights for conv in convs), default=1) + 1e2,
        max((conv.outputs for conv in convs), default=elements),
        depthwise + 1e3,
        macs - depthwise + 1e3,
    )
    return [math.log(value) for value in values]


def _amounts(part: NetPart) -> list[float]:
    found = dict.fromkeys(AMOUNTS, 0.0)
    found["constant"] = 1.0
    convs = convs_of(part)
    elements = part.cin * part.height * part.width
    if not convs:
        found["pool"] = elements
    if part.has_residual:
        found["residual_elements"] = elements
    for conv in convs:
        found[_work(conv)] += conv.macs
        found["weights"] += conv.weights
        found["convs"] += 1
        if conv.kind in ("pointwise", "depthwise"):
            found[f"{conv.kind}_elements"] += _inputs(conv) + conv.outputs
        if conv.kind == "depthwise" and conv.stride > 1:
            found["depthwise_strided"] += conv.macs
        if conv.kind == "pointwise" and conv.groups > 1 and conv.relu:
            found["shuffled_elements"] += conv.outputs
    return list(found.values())


def _work(conv: Conv) -> str:
    if conv.kind == "depthwise":
        return "depthwise_k3" if conv.kernel <= 3 else "depthwise_large"
    if conv.kind == "pointwise" and conv.groups > 1:
        return "pointwise_grouped"
    return conv.kind


def _inputs(conv: Conv) -> int:
    return conv.cin * conv.height * conv.width


def _shapes(part: NetPart) -> list[float]:
    convs = convs_of(part)
    spec = parse_block(part.block) if part.part == BLOCK else None
    kernel, expansion, groups = (spec.kernel, spec.expansion, spec.groups) if spec else (0, 0, 1)
    inner = part.cin * expansion if spec else part.cin
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
