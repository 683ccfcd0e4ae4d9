"""Exact parameters and multiply-accumulates (MACs) of parts and archs, without torch.

MACs count convs and the classifier, nothing else; parameters are everything learnable, BatchNorm's scale and shift
included. The sums equal the figures published for FBNet-A and FBNet-C to the unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tvmfbnet.errors import ArchError
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.convs import Conv
from tvmfbnet.space.heads import HEAD_ASPP, HEAD_BOXES, HEAD_LOGITS, HEAD_RESIZE
from tvmfbnet.space.space import BLOCK, HEAD_CONV, HEAD_LINEAR, HEAD_POOL, STEM, NetPart, Space


@dataclass(frozen=True)
class Counts:
    """Learnable parameters and MACs (for one image)."""

    params: int
    macs: int


def convs_of(part: NetPart) -> tuple[Conv, ...]:
    """The convs of a part in order of execution; the pool, a resize and an identity skip have none.

    Raises:
        ArchError: the kind of part is unknown.
    """
    cin, cout, height, width, stride = part.cin, part.cout, part.height, part.width, part.stride
    if part.part == HEAD_POOL or part.is_identity:
        return ()
    if part.part == STEM:
        return (Conv("dense", cin, cout, 3, 1, stride, height, width, True),)
    if part.part == HEAD_CONV:
        return (Conv("pointwise", cin, cout, 1, 1, 1, height, width, True),)
    if part.part == HEAD_LINEAR:
        return (Conv("linear", cin, cout, 1, 1, 1, 1, 1, False),)
    if part.part == HEAD_RESIZE:
        return ()
    if part.part == HEAD_ASPP:
        gate = Conv("linear", cin, cout, 1, 1, 1, 1, 1, True, activation="sigmoid")
        return (Conv("pointwise", cin, cout, 1, 1, 1, height, width, True), gate)
    if part.part == HEAD_BOXES:
        depthwise = Conv("depthwise", cin, cin, 3, cin, 1, height, width, True)
        return (depthwise, Conv("linear", cin, cout, 1, 1, 1, height, width, False))
    if part.part == HEAD_LOGITS:
        return (Conv("linear", cin, cout, 1, 1, 1, height, width, False),)
    if part.part != BLOCK:
        raise ArchError(f"part {part.name} has no convs to count: {part.part!r} is not a piece of a net")
    spec = parse_block(part.block)
    if spec is None:
        return (Conv("pointwise", cin, cout, 1, 1, stride, height, width, True),)
    return spec.convs(part)


def distinct_convs(space: Space) -> tuple[Conv, ...]:
    """Every distinct conv of the space's blocks by first appearance: the work of tuning."""
    return tuple(dict.fromkeys(conv for part in space.distinct_blocks() for conv in convs_of(part)))


def count_part(part: NetPart) -> Counts:
    """Parameters and MACs of one part."""
    return _total(Counts(conv.params, conv.macs) for conv in convs_of(part))


def count_arch(arch: Arch, space: Space) -> Counts:
    """Parameters and MACs of a whole net, stem and head included."""
    return _total(count_part(part) for part in space.parts_of(arch))


def describe_arch(arch: Arch, space: Space) -> dict[str, Any]:
    """An arch in figures, as plain data.

    Returns:
        ``arch`` (canonical string), ``space``, ``last_channels``, ``params``, ``macs``, ``layers`` (a list of index,
        stage, block, cin, cout, height, width, stride, params, macs; sizes are the layer's input), ``stem`` and
        ``head`` (params, macs of each fixed part).
    """
    total = count_arch(arch, space)
    layers = []
    for layer, part in space.cells_of(arch):
        shape = {key: value for key, value in part.to_dict().items() if key not in ("part", "block")}
        counts = asdict(count_part(part))
        layers.append({"index": layer.index, "stage": layer.stage, "block": part.block, **shape, **counts})
    return {
        "arch": format_arch(arch, space),
        "space": space.name,
        "last_channels": space.last_channels,
        "params": total.params,
        "macs": total.macs,
        "layers": layers,
        "stem": asdict(count_part(space.stem)),
        "head": [{"part": part.part, **asdict(count_part(part))} for part in space.head],
    }


def _total(counts: Iterable[Counts]) -> Counts:
    every = list(counts)
    return Counts(sum(item.params for item in every), sum(item.macs for item in every))
