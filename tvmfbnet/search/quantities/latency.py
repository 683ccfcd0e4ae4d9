"""Latency on the target, in milliseconds, from the latency table: measured, predicted or simulated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tvmfbnet.config import MOST_LATENCY_MS
from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.cost_model import AdditiveCosts, CostSources, Quantity
from tvmfbnet.space.space import Space

if TYPE_CHECKING:  # loads numpy, which settings do without
    from tvmfbnet.latency.table import LatencyTable


def latency_costs(table: LatencyTable, space: Space) -> AdditiveCosts:
    """Looks every candidate of ``space`` up; LatencyError lists all that are missing."""
    from tvmfbnet.latency.cells import MEASURED

    cells = table.matrix(space)
    looked_up = [[table.lookup(layer.cell(block)) for block in layer.blocks] for layer in space.layers]
    fixed = [table.lookup(part) for part in space.fixed_parts()]
    # What no device took counts as predicted, the overhead of a simulated call included.
    overhead_ms = table.overhead_ms if table.is_simulated else 0.0
    return AdditiveCosts(
        LATENCY,
        cells,
        float(table.fixed_ms(space)),
        tuple(tuple(float(cell.spread_ms) for cell in row) for row in looked_up),
        tuple(tuple(cell.source != MEASURED for cell in row) for row in looked_up),
        math.sqrt(sum(float(cell.spread_ms) ** 2 for cell in fixed)),
        overhead_ms + sum(float(cell.latency_ms) for cell in fixed if cell.source != MEASURED),
    )


def _build(sources: CostSources) -> AdditiveCosts:
    if sources.table is None:
        raise ConstraintError("a bound on latency needs a latency table")
    return latency_costs(sources.table, sources.space)


def load_latency_costs(record: Mapping[str, Any], space: Space) -> AdditiveCosts:
    """From :meth:`AdditiveCosts.to_dict`; ValueError where it is not of ``space``."""
    costs = AdditiveCosts.from_dict(LATENCY, record)
    costs.require_shape([len(layer.blocks) for layer in space.layers])
    return costs


LATENCY = Quantity(
    name="latency",
    unit="ms",
    suffixes={"ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "s": 1e3, "": 1.0},
    shown=("ms",),
    largest=MOST_LATENCY_MS,
    example="8ms, 800us or 0.008s",
    description="latency on the target, in milliseconds, by the latency table",
    build=_build,
    load=load_latency_costs,
)
