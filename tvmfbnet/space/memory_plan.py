"""How much memory a net's activations take: TVM's static memory plan, worked out without TVM.

TVM gives each tensor a storage when a kernel writes it and takes the storage back after the last kernel that reads it.
A freed storage is used again, enlarged where it is too small, unless its size differs from what is asked for by more
than :data:`_MATCH_RANGE` times (``StaticPlanBlockMemory`` of TVM 0.27: the smallest storage that is large enough, else
the largest of the smaller ones). So one inference allocates each storage once, and it lasts from its first tensor to
its last. The peak is what lasts at the same time: outputs of all kernels, the net's own output included. Not part of
the plan are the image, which the caller has, and buffers within kernels.

A net allocates at least what one kernel reads and writes and what later kernels still need: :func:`live_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvmfbnet.space.activations import PART_INPUT, Output

_MATCH_RANGE = 16

Part = Sequence[Output]
"""The outputs of a part's kernels; an identity skip has none."""


def peak_bytes(parts: Sequence[Part], maps: Sequence[int] = (), returned: Sequence[int] = (-1,)) -> int:
    """The peak of the static memory plan of a net, in bytes.

    Args:
        parts: stem, blocks and head in order of execution.
        maps: which parts give the feature maps that kernels of the head read.
        returned: places in the last part of the net's outputs.
    """
    sizes, lasts, reads = _tensors(parts, maps)
    outputs = {place % len(parts[-1]) + len(sizes) - len(parts[-1]) for place in returned}
    for kernel in outputs:
        lasts[kernel] = len(sizes) - 1
    converted = [output.converted for part in parts for output in part]
    storages: list[int] = []
    types: list[bool] = []
    first: list[int] = []
    until: list[int] = []
    free: list[int] = []
    used: list[int] = []
    for kernel, size in enumerate(sizes):
        fitting = [place for place in free if types[place] == converted[kernel]]
        place = None if kernel in outputs else _reusable(size, fitting, storages)  # what a net returns is never reused
        if place is None:
            place = len(storages)
            storages.append(size)
            types.append(converted[kernel])
            first.append(kernel)
            until.append(kernel)
        else:
            free.remove(place)
            storages[place] = max(storages[place], size)
        used.append(place)
        until[place] = lasts[kernel]
        for tensor in reads[kernel]:
            if lasts[tensor] == kernel and tensor not in outputs:
                free.append(used[tensor])
    totals = [0] * (len(sizes) + 1)
    for size, start, end in zip(storages, first, until, strict=True):
        for kernel in range(start, end + 1):
            totals[kernel] += size
    return max(totals)


def _reusable(size: int, free: Sequence[int], storages: Sequence[int]) -> int | None:
    """The free storage that TVM takes for a tensor; None where it makes a new one."""
    larger = [place for place in free if size <= storages[place] <= size * _MATCH_RANGE]
    if larger:
        return min(larger, key=lambda place: storages[place])
    smaller = [place for place in free if size // _MATCH_RANGE <= storages[place] < size]
    return max(smaller, key=lambda place: storages[place]) if smaller else None


def live_bytes(part: Part, input_bytes: int) -> int:
    """The most that is live while a part runs, in bytes: no plan of a net with this part allocates less.

    Args:
        part: the outputs of its kernels.
        input_bytes: of the part's input, 0 for the image.
    """
    before = [Output(input_bytes, ())] if input_bytes else []
    sizes, lasts, _ = _tensors([before, part] if before else [part])
    alive = [
        sum(size for tensor, size in enumerate(sizes[: kernel + 1]) if lasts[tensor] >= kernel)
        for kernel in range(len(sizes))
    ]
    return max(alive, default=0)


def _tensors(parts: Sequence[Part], maps: Sequence[int] = ()) -> tuple[list[int], list[int], list[tuple[int, ...]]]:
    """Of each kernel of a net: the size of its output, the last kernel that reads it, and the kernels that it reads."""
    sizes: list[int] = []
    lasts: list[int] = []
    reads: list[tuple[int, ...]] = []
    before = -1
    ends: list[int] = []
    for part in parts:
        start = len(sizes)
        taken = [ends[place] for place in maps if place < len(ends)]
        for output in part:
            kernel = len(sizes)
            read = tuple(_tensor(place, start, before, taken) for place in output.reads)
            read = tuple(tensor for tensor in read if tensor >= 0)  # not the image
            sizes.append(output.bytes)
            lasts.append(kernel)
            reads.append(read)
            for tensor in read:
                lasts[tensor] = kernel
        before = len(sizes) - 1
        ends.append(before)
    return sizes, lasts, reads


def _tensor(place: int, start: int, before: int, taken: Sequence[int]) -> int:
    """The number of a tensor that a kernel reads: of its part, of the part before it, or a feature map."""
    if place >= 0:
        return start + place
    return before if place == PART_INPUT else taken[PART_INPUT - 1 - place]
