"""Learnable parameters, exact: the count of each layer's block, plus stem and head."""

from __future__ import annotations

from operator import attrgetter

from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.quantities.counted import counted, counted_costs
from tvmfbnet.space.space import Space

_COUNT = attrgetter("params")

PARAMS = counted(
    "params",
    _COUNT,
    largest=1e12,
    example="4.5M, 800k or 12000",
    description="learnable parameters, batch norm's included, exact",
)


def params_costs(space: Space) -> AdditiveCosts:
    """The parameters of every candidate."""
    return counted_costs(PARAMS, space, _COUNT)
