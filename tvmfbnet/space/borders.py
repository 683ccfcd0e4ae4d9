"""Where the dtype of a net may change: the borders between stem, blocks and head, and the conversions of tensors there.

A net of mixed dtypes is a chain of units, each wholly in one dtype. Between two of different dtypes the tensor is
converted, which is a part of its own: timed like others, but of no layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import NetPart, Space

CONVERSION = "conversion"
# Between reals and codes, as the names of conversions.
QUANTISE, DEQUANTISE = "quantise", "dequantise"


@dataclass(frozen=True)
class NetUnit:
    """The parts of a net that have one dtype: the stem, one block, or the head.

    Attributes:
        name: ``stem``, ``layer3`` or ``head``.
        parts: in order of execution.
    """

    name: str
    parts: tuple[NetPart, ...]


def units_of(arch: Arch, space: Space) -> tuple[NetUnit, ...]:
    """The units of a net in order of execution; an identity skip is none, as it computes nothing."""
    blocks = (NetUnit(f"layer{layer.index}", (part,)) for layer, part in space.cells_of(arch) if not part.is_identity)
    return (NetUnit("stem", (space.stem,)), *blocks, NetUnit("head", space.head))


def conversion_before(part: NetPart, kind: str) -> NetPart:
    """The conversion of a part's input.

    Args:
        part: a block, or the first part of the head.
        kind: ``quantise`` or ``dequantise``.
    """
    return NetPart(CONVERSION, kind, part.cin, part.cin, part.height, part.width, 1)


def conversions_of(space: Space) -> tuple[NetPart, ...]:
    """Every different conversion that nets of a space may need, by first appearance."""
    inputs = [*(layer.cell(layer.blocks[0]) for layer in space.layers), space.head[0]]
    return tuple(dict.fromkeys(conversion_before(part, kind) for part in inputs for kind in (QUANTISE, DEQUANTISE)))
