"""Energy of one inference on the target, in millijoules, from the energies of the latency table.

Energies add up over parts as latencies do, and calling a net takes its own. None is predicted and none simulated: every
block that a net may have needs one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tvmfbnet import advice
from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.cost_model import AdditiveCosts, CostSources, Quantity
from tvmfbnet.space.space import Space

if TYPE_CHECKING:  # loads numpy, which settings do without
    from tvmfbnet.latency.table import LatencyTable

# How many parts without energy are listed.
_LISTED = 4


def _build(sources: CostSources) -> AdditiveCosts:
    table, space = sources.table, sources.space
    if table is None or not table.energies:
        raise ConstraintError(
            f"a bound on energy needs a latency table with the energy of every part: {_advice(table)}, or bring a file "
            "with a column energy_mj"
        )
    energies = table.energies
    lacking = energies.missing(space.distinct_parts())
    if lacking:
        names = ", ".join(part.name for part in lacking[:_LISTED]) + (", ..." if len(lacking) > _LISTED else "")
        raise ConstraintError(
            f"the latency table lacks the energy of {len(lacking)} part(s): {names}; {_advice(table)}"
        )
    layers = [[energies.of(layer.cell(block)) for block in layer.blocks] for layer in space.layers]
    fixed = [energies.call, *map(energies.of, space.fixed_parts())]
    return AdditiveCosts(
        ENERGY,
        tuple(tuple(energy for energy, _ in row) for row in layers),
        sum(energy for energy, _ in fixed),
        tuple(tuple(spread for _, spread in row) for row in layers),
        fixed_spread=math.sqrt(sum(spread**2 for _, spread in fixed)),
    )


def _advice(table: LatencyTable | None) -> str:
    """How energies are measured beside the latencies of a target."""
    name = "TARGET" if table is None or table.context is None else table.name
    return f"measure it with {advice.tune(name, energy='auto')}"


def _load(record: Mapping[str, Any], space: Space) -> AdditiveCosts:
    costs = AdditiveCosts.from_dict(ENERGY, record)
    costs.require_shape([len(layer.blocks) for layer in space.layers])
    return costs


ENERGY = Quantity(
    name="energy",
    unit="mJ",
    suffixes={"mJ": 1.0, "uJ": 1e-3, "µJ": 1e-3, "J": 1e3, "": 1.0},
    shown=("mJ",),
    largest=1e9,
    example="15mJ, 800uJ or 0.02J",
    description="energy of one inference above idle, in millijoules, by the energies of the latency table",
    build=_build,
    load=_load,
)
