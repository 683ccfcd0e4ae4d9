"""The latency table as the search needs it: a matrix of milliseconds, a constant, and the range of feasible targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.table import PREDICTED, LatencyTable
from tvmfbnet.space.space import Space


@dataclass(frozen=True)
class Costs:
    """Latency of every candidate of every layer, in milliseconds.

    Args:
        cells: for each layer one number a candidate (identity skips 0).
        fixed_ms: stem, head and call overhead, which every arch pays.
        spreads: one standard deviation of each cell; zeros if not given.
        predicted: which cells were predicted, not measured; none if not given.
        fixed_spread_ms: one standard deviation of the fixed cost.
        fixed_predicted_ms: how much of that was predicted.
    """

    cells: tuple[tuple[float, ...], ...]
    fixed_ms: float
    spreads: tuple[tuple[float, ...], ...] = ()
    predicted: tuple[tuple[bool, ...], ...] = ()
    fixed_spread_ms: float = 0.0
    fixed_predicted_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.spreads:
            object.__setattr__(self, "spreads", tuple((0.0,) * len(row) for row in self.cells))
        if not self.predicted:
            object.__setattr__(self, "predicted", tuple((False,) * len(row) for row in self.cells))

    @classmethod
    def of(cls, table: LatencyTable, space: Space) -> Costs:
        """Looks every candidate of ``space`` up; LatencyError lists all that are missing."""
        matrix = table.matrix(space)
        rows = zip(matrix, space.layers, strict=True)
        cells = tuple(tuple(float(cell) for cell in row[: len(layer.blocks)]) for row, layer in rows)
        looked_up = [[table.lookup(layer.cell(block)) for block in layer.blocks] for layer in space.layers]
        fixed = [table.lookup(part) for part in space.fixed_parts()]
        return cls(
            cells,
            float(table.fixed_ms(space)),
            tuple(tuple(float(cell.spread_ms) for cell in row) for row in looked_up),
            tuple(tuple(cell.source == PREDICTED for cell in row) for row in looked_up),
            math.sqrt(sum(float(cell.spread_ms) ** 2 for cell in fixed)),
            sum(float(cell.latency_ms) for cell in fixed if cell.source == PREDICTED),
        )

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Costs:
        """From :meth:`to_dict`."""
        cells, spreads, predicted = (
            tuple(tuple(row) for row in record[name]) for name in ("cells_ms", "spreads_ms", "predicted")
        )
        fixed = (record["fixed_spread_ms"], record["fixed_predicted_ms"])
        return cls(cells, record["fixed_ms"], spreads, predicted, *fixed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "cells_ms": [list(row) for row in self.cells],
            "fixed_ms": self.fixed_ms,
            "spreads_ms": [list(row) for row in self.spreads],
            "predicted": [list(row) for row in self.predicted],
            "fixed_spread_ms": self.fixed_spread_ms,
            "fixed_predicted_ms": self.fixed_predicted_ms,
        }

    @property
    def fastest_ms(self) -> float:
        """Latency of the fastest arch."""
        return self.fixed_ms + sum(min(row) for row in self.cells)

    @property
    def slowest_ms(self) -> float:
        """Latency of the slowest arch."""
        return self.fixed_ms + sum(max(row) for row in self.cells)

    def require_reachable(self, target_ms: float) -> None:
        """LatencyError with the reachable range when no arch is as fast as ``target_ms``."""
        if target_ms < self.fastest_ms:
            raise LatencyError(
                f"no net of this space meets a latency target of {target_ms:g} ms: "
                f"reachable are {self.fastest_ms:.4g} to {self.slowest_ms:.4g} ms"
            )

    def arch_ms(self, choice: Sequence[int]) -> float:
        """Latency of the arch that takes candidate ``choice[l]`` in layer l."""
        return self.fixed_ms + sum(row[index] for row, index in zip(self.cells, choice, strict=True))

    def spread_ms(self, choice: Sequence[int]) -> float:
        """One standard deviation of :meth:`arch_ms`, if the cells' errors are independent."""
        squares = (row[index] ** 2 for row, index in zip(self.spreads, choice, strict=True))
        return math.sqrt(self.fixed_spread_ms**2 + sum(squares))

    def scaled(self, factor: float) -> Costs:
        """The same table with every latency multiplied, for a device that runs whole nets slower than their parts."""
        rows = tuple(tuple(cell * factor for cell in row) for row in self.cells)
        spreads = tuple(tuple(cell * factor for cell in row) for row in self.spreads)
        fixed = (self.fixed_ms * factor, self.fixed_spread_ms * factor, self.fixed_predicted_ms * factor)
        return Costs(rows, fixed[0], spreads, self.predicted, fixed[1], fixed[2])

    def matrix(self) -> torch.Tensor:
        """(layers, most candidates), float32, 0 where a layer has fewer candidates."""
        widest = max(len(row) for row in self.cells)
        return torch.tensor([list(row) + [0.0] * (widest - len(row)) for row in self.cells])
