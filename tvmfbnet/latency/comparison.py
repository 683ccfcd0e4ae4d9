"""Two latency tables side by side: which parts are relatively faster on one device, or in one dtype, than another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.space import NetPart


@dataclass(frozen=True)
class Pair:
    """One part in both tables.

    Attributes:
        part: the part.
        first: its cell in the first table.
        second: its cell in the second.
        ratio: second over first latency.
        relative: that ratio over the median ratio of all parts; 1 is a typical part.
    """

    part: NetPart
    first: Cell
    second: Cell
    ratio: float
    relative: float

    @property
    def faster(self) -> bool | None:
        """Whether the second latency is lower; None where the difference is within both cells' spreads."""
        noise_ms = math.hypot(self.first.spread_ms, self.second.spread_ms)
        difference_ms = self.second.latency_ms - self.first.latency_ms
        return None if abs(difference_ms) <= noise_ms else difference_ms < 0


@dataclass(frozen=True)
class Comparison:
    """All parts in both tables.

    Attributes:
        pairs: the parts: those that differ most from the median ratio first, or by ratio.
        median_ratio: median ratio of second to first latency.
        spearman: rank correlation of the latencies.
        only_first: parts that only the first table has.
        only_second: parts that only the second has.
    """

    pairs: tuple[Pair, ...]
    median_ratio: float
    spearman: float
    only_first: tuple[NetPart, ...]
    only_second: tuple[NetPart, ...]

    @property
    def sums_ms(self) -> tuple[float, float]:
        """What all shared parts take together, each once, in the first table and in the second."""
        return (
            math.fsum(pair.first.latency_ms for pair in self.pairs),
            math.fsum(pair.second.latency_ms for pair in self.pairs),
        )

    def count(self, faster: bool | None) -> int:
        """How many parts the second table has faster (True), slower (False), or neither beyond noise (None)."""
        return sum(pair.faster is faster for pair in self.pairs)


def compare_tables(first: LatencyTable, second: LatencyTable, by_ratio: bool = False) -> Comparison:
    """Compares the parts that compute something and cost more than 0 ms in both tables.

    Args:
        first: one table.
        second: the other.
        by_ratio: order by the ratio, where the second gains most first; by default by how far it is from the median.

    Raises:
        LatencyError: they share fewer than two such parts.
    """
    from scipy.stats import spearmanr  # takes a second to load

    shared = [
        (part, cell, second.cells[part])
        for part, cell in first.cells.items()
        if part in second.cells and cell.latency_ms > 0 and second.cells[part].latency_ms > 0 and not part.is_identity
    ]
    if len(shared) < 2:
        raise LatencyError(f"tables {first.name} and {second.name} share {len(shared)} part(s): nothing to compare")
    ratios = np.array([other.latency_ms / cell.latency_ms for _, cell, other in shared])
    median = float(np.median(ratios))
    rank = float(spearmanr([c.latency_ms for _, c, _ in shared], [o.latency_ms for _, _, o in shared]).statistic)
    pairs = [
        Pair(part, cell, other, float(ratio), float(ratio) / median)
        for (part, cell, other), ratio in zip(shared, ratios, strict=True)
    ]
    if by_ratio:
        pairs.sort(key=lambda pair: pair.ratio)
    else:
        pairs.sort(key=lambda pair: abs(math.log(pair.relative)), reverse=True)
    return Comparison(
        tuple(pairs),
        median,
        rank if math.isfinite(rank) else 0.0,
        tuple(part for part in first.cells if part not in second.cells),
        tuple(part for part in second.cells if part not in first.cells),
    )
