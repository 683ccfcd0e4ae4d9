"""The latency table as the search needs it: a matrix of milliseconds and a constant, and what targets they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.space import Space


@dataclass(frozen=True)
class Costs:
    """Latency of every candidate of every layer, in milliseconds.

    Args:
        cells: for each layer one number a candidate (identity skips 0).
        fixed_ms: stem, head and call overhead, which every arch pays.
    """

    cells: tuple[tuple[float, ...], ...]
    fixed_ms: float

    @classmethod
    def of(cls, table: LatencyTable, space: Space) -> Costs:
        """Looks every candidate of ``space`` up; LatencyError lists all that are missing."""
        matrix = table.matrix(space)
        rows = zip(matrix, space.layers, strict=True)
        cells = tuple(tuple(float(cell) for cell in row[: len(layer.blocks)]) for row, layer in rows)
        return cls(cells, float(table.fixed_ms(space)))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Costs:
        """From :meth:`to_dict`."""
        return cls(tuple(tuple(row) for row in record["cells_ms"]), record["fixed_ms"])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"cells_ms": [list(row) for row in self.cells], "fixed_ms": self.fixed_ms}

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

    def matrix(self) -> torch.Tensor:
        """(layers, most candidates), float32, 0 where a layer has fewer candidates."""
        widest = max(len(row) for row in self.cells)
        return torch.tensor([list(row) + [0.0] * (widest - len(row)) for row in self.cells])
