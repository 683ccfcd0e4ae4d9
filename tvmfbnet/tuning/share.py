"""Measuring a share of the blocks: those that tell most about the others, batch after batch.

After each batch what it showed decides on the next one (:mod:`tvmfbnet.latency.choose`). What was measured before
counts in: towards the share, and as knowledge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from tvmfbnet.latency.choose import choose_batch
from tvmfbnet.space.space import BLOCK, NetPart, Space

# Batches are small at first sight only: fitting between them costs less than timing one block on a phone.
_BATCH_SHARE = 0.08
_LEAST_BATCH = 4


def blocks_to_measure(blocks: int, share: float) -> int:
    """How many of a number of blocks a share (0 to 1) is: rounded up, one at least."""
    return min(blocks, max(1, math.ceil(share * blocks)))


def measure_share(
    space: Space,
    parts: Sequence[NetPart],
    share: float,
    held: Callable[[], Mapping[NetPart, float]],
    stale: Collection[NetPart],
    measure: Callable[[Sequence[NetPart]], int],
    seed: int = 0,
) -> tuple[int, int]:
    """Measures stem, head and a share of the blocks.

    Args:
        space: says in how many layers a block is a candidate: its uncertainty counts as often.
        parts: all parts that the table must cover.
        share: of the blocks among them, 0 to 1.
        held: latency in milliseconds of whatever is measured by now, as it will be in the table.
        stale: parts that were measured with older kernels; they are measured again before new ones are chosen.
        measure: times some parts, and says how many of them were not held yet.
        seed: of the fits between batches.

    Returns:
        How many parts were timed now, and how many parts the share comes to.
    """
    blocks = [part for part in parts if part.part == BLOCK]
    fixed = [part for part in parts if part.part != BLOCK]
    count = blocks_to_measure(len(blocks), share)
    timed = measure(fixed)
    if count == len(blocks):
        return timed + measure(blocks), len(parts)
    uses = Counter(cell for layer in space.layers for block in layer.blocks if (cell := layer.part(block)) is not None)
    batch = max(_LEAST_BATCH, math.ceil(_BATCH_SHARE * len(blocks)))
    due = set(stale) & set(blocks)
    while True:
        known = {part: ms for part, ms in held().items() if part not in due}
        left = count - sum(part in known for part in blocks)
        chosen = choose_batch(blocks, min(left, batch), known, uses, seed, due or None) if left > 0 else ()
        if not chosen:
            return timed, len(fixed) + count
        timed += measure(chosen)
        due -= set(chosen)
