"""Measuring a share of the blocks, chosen by active learning: the most informative ones, batch after batch.

Each batch is chosen with the results of those before it (:mod:`tvmfbnet.latency.active_learning`). Earlier measurements
count towards the share and inform the choice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tvmfbnet.dtypes import dtype_named
from tvmfbnet.latency.active_learning import choose_batch
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.repository import measured_table
from tvmfbnet.progress import step
from tvmfbnet.space.space import BLOCK, NetPart, Space

# More batches choose better, but on CPUs parts are timed together in nets, and few parts need as many nets as many do.
_BATCHES = 3
_LEAST_BATCH = 4


def blocks_to_measure(blocks: int, share: float) -> int:
    """A share (0 to 1) of a number of blocks: rounded up, at least one."""
    return min(blocks, max(1, math.ceil(share * blocks - 1e-9)))


def measure_share(
    space: Space,
    trials: Mapping[NetPart, int],
    share: float,
    journal: Journal,
    context: Context,
    measure: Callable[[Sequence[NetPart]], int],
    seed: int = 0,
    kernel_ms: Mapping[NetPart, float] | None = None,
) -> tuple[int, int]:
    """Measures stem, head and a share of the blocks; a block is weighted by the number of layers it is a candidate in.

    Args:
        space: the space of the parts.
        trials: every part that the table must cover, with the trials spent on its kernels so far.
        share: of the blocks among them, 0 to 1.
        journal: has the measurements.
        context: which of them count.
        measure: times those of the given parts that are missing from the journal, and returns their number.
        seed: of the fits between batches.
        kernel_ms: summed latency of each part's kernels, timed alone.

    Returns:
        The number of parts timed now, and the number of parts in the share.
    """
    blocks = [part for part in trials if part.part == BLOCK]
    fixed = [part for part in trials if part.part != BLOCK]
    count = blocks_to_measure(len(blocks), share)
    if count == len(blocks):
        return measure(list(trials)), len(trials)
    uses = Counter(cell for layer in space.layers for block in layer.blocks if (cell := layer.part(block)) is not None)
    batch = max(_LEAST_BATCH, math.ceil(count / _BATCHES))
    timed, size = 0, dtype_named(context.dtype).bytes
    for _ in range(len(blocks) + 1):  # each round measures at least one block, the last one none
        table = _table(journal, context)
        # Blocks that were timed with older kernels are timed again before new ones are chosen.
        stale = {part for part in blocks if part in table and table[part][1] != trials[part]}
        measured_ms = {part: latency_ms for part, (latency_ms, _) in table.items() if part not in stale}
        counted = [part for part in blocks if part in measured_ms]
        wanted = min(count - len(counted), batch)
        with step("choosing the most informative blocks", patience=2.0):
            chosen: tuple[NetPart, ...] = ()
            if wanted > 0:
                chosen = choose_batch(blocks, wanted, measured_ms, uses, seed, stale or None, kernel_ms, size)
        # Blocks that count already are passed again: after a stopped run they may lack a round.
        timed += measure([*fixed, *counted, *chosen])
        if not chosen:
            break
    return timed, len(fixed) + count


def _table(journal: Journal, context: Context) -> dict[NetPart, tuple[float, int]]:
    """Latency in milliseconds and trials of every measured part."""
    cells = measured_table(journal.read(), context).cells
    return {part: (cell.latency_ms, cell.trials) for part, cell in cells.items()}
