"""The tensors that the kernels of a head compute (:mod:`tvmfbnet.space.activations`), of heads that go back to earlier
feature maps as well: LR-ASPP and SSDLite in float32 and float16.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmfbnet.dtypes import FLOAT32, DType, bytes_of
from tvmfbnet.errors import UserError
from tvmfbnet.space.activations import PART_INPUT, Output, feature_map, outputs_of
from tvmfbnet.space.heads import ANCHORS, CLASSIFIER, SSDLITE, head_maps
from tvmfbnet.space.space import Space

# What SSDLite's kernels read besides weights: three pairs of numbers of every anchor, and four numbers.
_NUMBERS_OF_AN_ANCHOR, _NUMBERS = 6, 4


@dataclass(frozen=True)
class HeadOutputs:
    """What the kernels of a head write, and what of it the net returns.

    Attributes:
        kernels: in order of execution.
        maps: which parts of the net give the feature maps that kernels read: 0 for the stem, then the layers.
        returned: places in ``kernels`` of the net's outputs.
    """

    kernels: tuple[Output, ...]
    maps: tuple[int, ...]
    returned: tuple[int, ...]


def head_outputs(space: Space, dtype: DType) -> HeadOutputs:
    """The kernels of a space's head.

    Raises:
        UserError: it is no classifier, and what the compiler makes of it in this dtype, or of a single map, is not
            known here.
    """
    maps = tuple(each.layer + 1 for each in head_maps(space))
    if space.head_kind == CLASSIFIER:
        kernels: list[Output] = []
        for part in space.head:
            before = len(kernels) - 1  # of the first kernel: the part's input, as it happens
            kernels += [Output(each.bytes, (before,)) for each in outputs_of(part, dtype)]
        return HeadOutputs(tuple(kernels), maps, (len(kernels) - 1,))
    if dtype.is_quantised:
        raise UserError(f"the kernels of the head {space.head_kind} in {dtype.name}, some in floats, are not known")
    if len(maps) == 1:
        raise UserError(f"the kernels of the head {space.head_kind} are known for two feature maps and three, not one")
    return _ssdlite(space, dtype, maps) if space.head_kind == SSDLITE else _lraspp(space, dtype, maps)


def _lraspp(space: Space, dtype: DType, maps: tuple[int, ...]) -> HeadOutputs:
    """A gate of the means, the gated map, then logits: enlarged, and added by the conv of the next map."""
    gated, *_ = space.head
    last, *finer = head_maps(space)
    per_channel, kernels = gated.cout * dtype.bytes, [Output(gated.cin * dtype.bytes, (PART_INPUT,))]
    kernels.append(Output(per_channel, (0,)))
    kernels.append(Output(per_channel, (1,)))  # copied, to be of four dimensions
    kernels.append(Output(per_channel * last.height * last.width, (PART_INPUT, 2)))
    kernels.append(Output(space.classes * last.height * last.width * dtype.bytes, (3,)))
    for number, each in enumerate(finer, start=1):
        elements = space.classes * each.height * each.width
        kernels.append(Output(elements * dtype.bytes, (len(kernels) - 1,)))
        kernels.append(Output(elements * dtype.bytes, (feature_map(number), len(kernels) - 1)))
    # The last sum is of the type that the net gives, and then has its channels first.
    converted = dtype.boundary != dtype.name
    size = elements * bytes_of(dtype.boundary)
    kernels[-1] = Output(size, kernels[-1].reads, converted)
    kernels.append(Output(size, (len(kernels) - 1,), converted))
    return HeadOutputs(tuple(kernels), maps, (len(kernels) - 1,))


def _ssdlite(space: Space, dtype: DType, maps: tuple[int, ...]) -> HeadOutputs:
    """Two convs for each map; their answers side by side, of which boxes and scores are made in float32."""
    kernels: list[Output] = []
    answers = []
    for number, part in enumerate(space.head):
        places = part.height * part.width * dtype.bytes
        kernels.append(Output(part.cin * places, (feature_map(number),)))
        kernels.append(Output(part.cout * places, (len(kernels) - 1,)))
        answers.append(len(kernels) - 1)
    anchor_bytes, converted = _anchors(space) * FLOAT32.bytes, dtype.name != FLOAT32.name
    joined = len(kernels)
    kernels.append(Output(anchor_bytes * (space.classes + 4), tuple(answers), converted))
    kernels.append(Output(anchor_bytes * 4, (joined,), converted))
    kernels.append(Output(anchor_bytes * space.classes, (joined,), converted))
    kernels.append(Output(anchor_bytes * space.classes, (joined + 2,), converted))
    return HeadOutputs(tuple(kernels), maps, (len(kernels) - 3, len(kernels) - 1))


def constant_bytes(space: Space) -> int:
    """Bytes of what a head's kernels read that is no weight: what SSDLite knows of its anchors, in float32."""
    if space.head_kind != SSDLITE:
        return 0
    return (_NUMBERS_OF_AN_ANCHOR * _anchors(space) + _NUMBERS) * FLOAT32.bytes


def _anchors(space: Space) -> int:
    return ANCHORS * sum(each.height * each.width for each in head_maps(space))
