"""The tensors that a compiled net computes, kernel by kernel: what its memory plan is made of, without TVM or torch.

The compiler makes one kernel of a conv with its bias, its activation and the addition of the block's input. Further
kernels copy: the channel shuffle after a grouped conv, the weighting of channels in squeeze-and-excitation, and the
image, where its layout or its type is not the one that kernels compute in.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmfbnet.dtypes import DType, bytes_of
from tvmfbnet.space.convs import Conv
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.space import BLOCK, HEAD_LINEAR, HEAD_POOL, STEM, NetPart

# As a tensor that a kernel of a part reads: the output of the part before it.
PART_INPUT = -1


def feature_map(number: int) -> int:
    """As a tensor that a kernel of the head reads: the feature map of this number among those that the head takes."""
    return PART_INPUT - 1 - number


@dataclass(frozen=True)
class Output:
    """The tensor that one kernel writes.

    Attributes:
        bytes: its size, for one image.
        reads: which tensors the kernel reads: places in the part's outputs, :data:`PART_INPUT`, or a
            :func:`feature_map`; none for a kernel that reads the image, which belongs to the caller.
        converted: of another type than the net computes in; the plan puts tensors of one type into a storage.
    """

    bytes: int
    reads: tuple[int, ...]
    converted: bool = False


def outputs_of(part: NetPart, dtype: DType) -> tuple[Output, ...]:
    """What the kernels of a part write, in order of execution; an identity skip has none.

    Raises:
        ArchError: the kind of part is unknown.
    """
    if part.part == HEAD_POOL:
        return (Output(part.cout * dtype.bytes, (PART_INPUT,)),)
    convs = convs_of(part)
    if part.part == STEM:
        return _stem(part, convs[0], dtype)
    if part.part == HEAD_LINEAR:
        return (Output(convs[0].outputs * bytes_of(dtype.boundary), (PART_INPUT,)),)
    chain = _Chain(dtype)
    chain.add(convs, part.part == BLOCK)
    return tuple(chain.outputs)


def _stem(part: NetPart, conv: Conv, dtype: DType) -> tuple[Output, ...]:
    """A quantised net's first kernel reads the image as it is."""
    converted = not dtype.is_quantised and (part.cin > 1 or dtype.boundary != dtype.name)
    output = conv.outputs * dtype.bytes
    if not converted:
        return (Output(output, ()),)
    return (Output(part.cin * part.height * part.width * dtype.bytes, ()), Output(output, (0,)))


class _Chain:
    """The kernels of a block's convs, each of which reads what the one before it wrote."""

    def __init__(self, dtype: DType) -> None:
        self.outputs: list[Output] = []
        self._bytes = dtype.bytes

    def add(self, convs: tuple[Conv, ...], is_block: bool) -> None:
        """Adds the kernels of a part's convs."""
        weighted: tuple[int, int] | None = None  # place and elements of what squeeze-and-excitation weights
        last, elements = PART_INPUT, 0
        for number, conv in enumerate(convs):
            excites = is_block and conv.kind == "linear"
            if excites and weighted is None:
                weighted = (last, elements)
                last = self._kernel(conv.cin, last)  # the means
            if not excites and weighted is not None:
                last = self._kernel(weighted[1], last, weighted[0])
                weighted = None
            reads = (last, PART_INPUT) if conv.residual else (last,)
            elements = conv.outputs
            last = self._kernel(elements, *reads)
            if conv.kind == "pointwise" and conv.groups > 1 and number < len(convs) - 1:
                last = self._kernel(elements, last)  # the channel shuffle

    def _kernel(self, elements: int, *reads: int) -> int:
        self.outputs.append(Output(elements * self._bytes, reads))
        return len(self.outputs) - 1
