"""Multiply-accumulates for one image, exact: the count of each layer's block, plus stem and head."""

from __future__ import annotations

from operator import attrgetter

from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.quantities.counted import counted, counted_costs
from tvmfbnet.space.space import Space

_COUNT = attrgetter("macs")

MACS = counted(
    "macs",
    _COUNT,
    largest=1e15,
    example="300M, 800k or 12000",
    description="multiply-accumulates for one image of convs and classifier, exact",
)


def macs_costs(space: Space) -> AdditiveCosts:
    """The MACs of every candidate."""
    return counted_costs(MACS, space, _COUNT)
