"""Measuring a share of the blocks: those that tell most about the others, batch after batch.

After each batch what it showed decides on the next one (:mod:`tvmfbnet.latency.active_learning`). What was measured
before counts in: towards the share, and as knowledge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tvmfbnet.latency.active_learning import choose_batch
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.repository import measured_table
from tvmfbnet.progress import step
from tvmfbnet.space.space import BLOCK, NetPart, Space

# More batches choose better, but on CPUs parts are timed together in nets, and few parts take as many nets as more do.
_BATCHES = 3
_LEAST_BATCH = 4


def blocks_to_measure(blocks: int, share: float) -> int:
    """How many of a number of blocks a share (0 to 1) is: rounded up, one at least."""
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
    """Measures stem, head and a share of the blocks; a block counts as often as there are layers it may stand in.

    Args:
        space: where the parts come from.
        trials: every part that the table must cover, with the trials that its kernels have had by now.
        share: of the blocks among them, 0 to 1.
        journal: where measurements are.
        context: which of them count.
        measure: times those of some parts that are not in the journal yet, and says how many they were.
        seed: of the fits between batches.
        kernel_ms: what the kernels of parts take by themselves.

    Returns:
        How many parts were timed now, and how many parts the share comes to.
    """
    blocks = [part for part in trials if part.part == BLOCK]
    fixed = [part for part in trials if part.part != BLOCK]
    count = blocks_to_measure(len(blocks), share)
    if count == len(blocks):
        return measure(list(trials)), len(trials)
    uses = Counter(cell for layer in space.layers for block in layer.blocks if (cell := layer.part(block)) is not None)
    batch = max(_LEAST_BATCH, math.ceil(count / _BATCHES))
    timed = 0
    for _ in range(len(blocks) + 1):  # each round measures one block at least, the last one none
        table = _table(journal, context)
        # Blocks that were timed with older kernels are timed again before new ones are chosen.
        stale = {part for part in blocks if part in table and table[part][1] != trials[part]}
        known = {part: latency_ms for part, (latency_ms, _) in table.items() if part not in stale}
        counted = [part for part in blocks if part in known]
        wanted = min(count - len(counted), batch)
        with step("choosing the blocks that tell most about the others", patience=2.0):
            chosen = choose_batch(blocks, wanted, known, uses, seed, stale or None, kernel_ms) if wanted > 0 else ()
        # Those that count already are named again: of a run that was stopped, they may lack a repetition.
        timed += measure([*fixed, *counted, *chosen])
        if not chosen:
            break
    return timed, len(fixed) + count


def _table(journal: Journal, context: Context) -> dict[NetPart, tuple[float, int]]:
    """Latency in milliseconds and trials of every part that was measured."""
    cells = measured_table(journal.read(), context).cells
    return {part: (cell.latency_ms, cell.trials) for part, cell in cells.items()}
