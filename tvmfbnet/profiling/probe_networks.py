"""Probe networks: nets that together contain every part of a space to be timed, each time among other neighbours."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from tvmfbnet.space.space import Layer, NetPart, Space


def probe_networks(
    space: Space, due: Collection[NetPart], rounds: int, lowered: Collection[NetPart], seed: int
) -> list[tuple[NetPart, ...]]:
    """Nets that together contain every due block ``rounds`` times at each layer where it is a candidate.

    Neighbours are drawn at random in each round, so that their influence on a block averages out. A layer with nothing
    due holds any block that is lowered already.

    Args:
        space: the space.
        due: blocks to time; stem and head are in every net.
        rounds: how often.
        lowered: parts that are lowered already, preferred where nothing is due.
        seed: of the draw.

    Returns:
        The parts of each net in order of execution, identity skips left out.
    """
    generator = random.Random(seed)
    nets: list[tuple[NetPart, ...]] = []
    for _ in range(rounds):
        columns = [_column(layer, due, lowered, generator) for layer in space.layers]
        for number in range(max(len(column) for column in columns)):
            blocks = (column[number % len(column)] for column in columns)
            nets.append((space.stem, *(block for block in blocks if not block.is_identity), *space.head))
    return nets


def _column(
    layer: Layer, due: Collection[NetPart], lowered: Collection[NetPart], generator: random.Random
) -> Sequence[NetPart]:
    """The parts of a layer in one net after the other."""
    cells = [layer.cell(block) for block in layer.blocks]
    wanted = [cell for cell in cells if cell in due]
    if wanted:
        return generator.sample(wanted, len(wanted))
    usable = [cell for cell in cells if cell in lowered or cell.is_identity]
    # Otherwise the last candidate, by convention skip: the cheapest.
    return generator.sample(usable, len(usable)) if usable else cells[-1:]
