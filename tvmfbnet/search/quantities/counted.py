"""Quantities that are counted: a whole number of every part of a net, exact, whose sum is the net's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvmfbnet.search.cost_model import AdditiveCosts, CostSources, Quantity
from tvmfbnet.space.counts import Counts, count_part
from tvmfbnet.space.space import Space


def counted_costs(quantity: Quantity, space: Space, count: Callable[[Counts], int]) -> AdditiveCosts:
    """What every candidate of a space has of a counted quantity (:mod:`tvmfbnet.space.counts`).

    Args:
        quantity: which.
        space: the space.
        count: what of a part's counts it is.
    """
    layers = [[count(count_part(layer.cell(block))) for block in layer.blocks] for layer in space.layers]
    fixed = sum(count(count_part(part)) for part in space.fixed_parts())
    return AdditiveCosts(quantity, tuple(tuple(map(float, row)) for row in layers), float(fixed))


def counted(name: str, count: Callable[[Counts], int], largest: float, example: str, description: str) -> Quantity:
    """A quantity that follows from the space alone.

    Args:
        name, largest, example, description: as of :class:`tvmfbnet.search.cost_model.Quantity`.
        count: what of a part's counts it is.
    """

    def build(sources: CostSources) -> AdditiveCosts:
        return counted_costs(quantity, sources.space, count)

    def load(record: Mapping[str, Any], space: Space) -> AdditiveCosts:
        costs = AdditiveCosts.from_dict(quantity, record)
        costs.require_shape([len(layer.blocks) for layer in space.layers])
        return costs

    quantity = Quantity(
        name=name,
        unit="",
        suffixes={"G": 1e9, "M": 1e6, "k": 1e3, "K": 1e3, "": 1.0},
        shown=("G", "M", "k", ""),
        largest=largest,
        example=example,
        description=description,
        build=build,
        load=load,
        follows_from_space=True,
    )
    return quantity
