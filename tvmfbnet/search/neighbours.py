"""Archs that differ from one in the block of a single layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tvmfbnet.search.cost_model import Choice


def changed(choice: Choice, layer: int, index: int) -> Choice:
    """An arch with another candidate in one layer."""
    return (*choice[:layer], index, *choice[layer + 1 :])


def single_changes(choice: Choice, widths: Sequence[int]) -> Iterator[tuple[int, Choice]]:
    """Every change of one layer: the layer, and the arch.

    Args:
        choice: the arch.
        widths: how many candidates each layer has.
    """
    for layer, width in enumerate(widths):
        for index in range(width):
            if index != choice[layer]:
                yield layer, changed(choice, layer, index)
