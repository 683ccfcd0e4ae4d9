"""Cost models that tests search with: one that does not add up over layers, and shorthands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.params import PARAMS

PEAK = replace(PARAMS, name="peak")


@dataclass(frozen=True)
class PeakCosts:
    """The largest cell of an arch, as the peak memory of a net is: not additive."""

    cells: tuple[tuple[float, ...], ...]
    quantity = PEAK

    @property
    def least(self):
        return max(min(row) for row in self.cells)

    @property
    def most(self):
        return max(max(row) for row in self.cells)

    def value(self, choice):
        return max(row[index] for row, index in zip(self.cells, choice, strict=True))

    def spread(self, choice):
        return 0.0

    def measured_share(self, choice):
        return 1.0

    def allowed(self, bound):
        return tuple(tuple(cell <= bound for cell in row) for row in self.cells)

    def to_dict(self):
        return {"cells": [list(row) for row in self.cells]}


def latency(cells, bound, fixed=0.7):
    return Constraint(AdditiveCosts(LATENCY, cells, fixed), bound)


def params(cells, bound, fixed=0.3):
    return Constraint(AdditiveCosts(PARAMS, cells, fixed), bound)


def peak(cells, bound):
    return Constraint(PeakCosts(cells), bound)
