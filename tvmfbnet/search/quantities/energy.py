"""Energy of one inference on the target, in millijoules, from the energies of the latency table.

Energies add up over parts as latencies do. None is predicted and none simulated: every block that a net may have needs
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.cost_model import AdditiveCosts, CostSources, Quantity
from tvmfbnet.space.space import NetPart, Space

# How many parts without energy are listed.
_LISTED = 4


def _build(sources: CostSources) -> AdditiveCosts:
    energies = {} if sources.table is None else sources.table.energies
    if not energies:
        raise ConstraintError(
            "a bound on energy needs a latency table with the energy of every part: a .csv with a column energy_mj"
        )
    space = sources.space
    lacking = [part for part in space.distinct_parts() if part not in energies]
    if lacking:
        names = ", ".join(part.name for part in lacking[:_LISTED]) + (", ..." if len(lacking) > _LISTED else "")
        raise ConstraintError(f"the latency table lacks the energy of {len(lacking)} part(s): {names}")

    def energy_of(part: NetPart) -> tuple[float, float]:
        return energies.get(part, (0.0, 0.0))  # an identity skip computes nothing

    layers = [[energy_of(layer.cell(block)) for block in layer.blocks] for layer in space.layers]
    fixed = [energy_of(part) for part in space.fixed_parts()]
    return AdditiveCosts(
        ENERGY,
        tuple(tuple(energy for energy, _ in row) for row in layers),
        sum(energy for energy, _ in fixed),
        tuple(tuple(spread for _, spread in row) for row in layers),
        fixed_spread=math.sqrt(sum(spread**2 for _, spread in fixed)),
    )


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
