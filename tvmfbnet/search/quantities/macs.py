"""Multiply-accumulates for one image, exact: the count of each layer's block, plus stem and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvmfbnet.search.cost_model import AdditiveCosts, CostSources, Quantity
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.space import Space


def macs_costs(space: Space) -> AdditiveCosts:
    """The MACs of every candidate (:mod:`tvmfbnet.space.counts`)."""
    layers = [[count_part(layer.cell(block)).macs for block in layer.blocks] for layer in space.layers]
    fixed = sum(count_part(part).macs for part in space.fixed_parts())
    return AdditiveCosts(MACS, tuple(tuple(map(float, row)) for row in layers), float(fixed))


def _load(record: Mapping[str, Any], space: Space) -> AdditiveCosts:
    costs = AdditiveCosts.from_dict(MACS, record)
    costs.require_shape([len(layer.blocks) for layer in space.layers])
    return costs


def _build(sources: CostSources) -> AdditiveCosts:
    return macs_costs(sources.space)


MACS = Quantity(
    name="macs",
    unit="",
    suffixes={"G": 1e9, "M": 1e6, "k": 1e3, "K": 1e3, "": 1.0},
    shown=("G", "M", "k", ""),
    largest=1e15,
    example="300M, 800k or 12000",
    description="multiply-accumulates for one image of convs and classifier, exact",
    build=_build,
    load=_load,
    follows_from_space=True,
)
