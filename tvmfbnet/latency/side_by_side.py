"""Any number of latency tables side by side: the parts that all of them have, and how alike they rank these.

Devices differ in more than their speed: what is a cheap block on one is a costly one on another, so the best nets
differ (FBNet, arXiv 1812.03443, section 4.3, compares operators of two phones). Rank correlations say how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Protocol, TypeVar

import numpy as np

from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.space import NetPart


class _Row(Protocol):
    """What belongs to one part."""

    @property
    def part(self) -> NetPart: ...


RowT = TypeVar("RowT", bound=_Row)


@dataclass(frozen=True)
class SharedPart:
    """One part that all tables have.

    Attributes:
        part: the part.
        cells: its cell in each table.
        disagreement: the largest ratio between two tables of what the part costs there, each relative to the table's
            median ratio to the first; 1 where all devices agree but for their speed.
    """

    part: NetPart
    cells: tuple[Cell, ...]
    disagreement: float

    @property
    def ratios(self) -> tuple[float, ...]:
        """Latency in each table over that in the first."""
        return tuple(cell.latency_ms / self.cells[0].latency_ms for cell in self.cells)


@dataclass(frozen=True)
class SideBySide:
    """What several tables share.

    Attributes:
        names: what each table is called here, all different.
        tables: the tables.
        parts: the shared parts, in the order of the first table.
        median_ratios: of each table to the first, over the shared parts.
        spearman: rank correlation of each table's latencies with each other one's.
    """

    names: tuple[str, ...]
    tables: tuple[LatencyTable, ...]
    parts: tuple[SharedPart, ...]
    median_ratios: tuple[float, ...]
    spearman: tuple[tuple[float, ...], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names; that of a simulated table says so."""
        return tuple(
            f"{name} ({table.basis})" if table.is_simulated and not name.startswith(table.basis) else name
            for name, table in zip(self.names, self.tables, strict=True)
        )

    @property
    def means_ms(self) -> tuple[float, ...]:
        """Mean latency of the shared parts in each table."""
        columns = zip(*(row.cells for row in self.parts), strict=True)
        return tuple(math.fsum(cell.latency_ms for cell in column) / len(self.parts) for column in columns)

    @property
    def by_disagreement(self) -> list[SharedPart]:
        """The shared parts, those first whose cost differs most from device to device."""
        return sorted(self.parts, key=lambda row: row.disagreement, reverse=True)

    def unshared(self) -> dict[str, list[NetPart]]:
        """For each table the parts that it has and another one lacks, identities left out."""
        shared = {row.part for row in self.parts}
        return {
            name: [part for part in table.cells if part not in shared and not part.is_identity]
            for name, table in zip(self.names, self.tables, strict=True)
        }


def side_by_side(named: Sequence[tuple[str, LatencyTable]]) -> SideBySide:
    """Compares the parts that compute something and cost more than 0 ms in every table.

    Args:
        named: two or more tables, each as the user named it. A table is called by its own name; where several share
            that, by what the user wrote.

    Raises:
        LatencyError: they share fewer than two such parts.
        UserError: one is named twice.
    """
    from scipy.stats import spearmanr  # takes a second to load

    tables = tuple(table for _, table in named)
    names = _names(named)
    first, others = tables[0], tables[1:]
    shared = [
        part
        for part, cell in first.cells.items()
        if not part.is_identity
        and cell.latency_ms > 0
        and all(part in table.cells and table.cells[part].latency_ms > 0 for table in others)
    ]
    if len(shared) < 2:
        raise LatencyError(f"tables {', '.join(names)} share {len(shared)} part(s): nothing to compare")
    latencies = np.array([[table.cells[part].latency_ms for table in tables] for part in shared])
    ratios = latencies / latencies[:, :1]
    medians = np.median(ratios, axis=0)
    relative = np.log(ratios / medians)
    spread = np.exp(relative.max(axis=1) - relative.min(axis=1))
    ranks = [[_finite(spearmanr(one, other).statistic) for other in latencies.T] for one in latencies.T]
    return SideBySide(
        names,
        tables,
        tuple(
            SharedPart(part, tuple(table.cells[part] for table in tables), float(most))
            for part, most in zip(shared, spread, strict=True)
        ),
        tuple(map(float, medians)),
        tuple(map(tuple, ranks)),
    )


def matching(parts: Sequence[RowT], globs: Sequence[str]) -> list[RowT]:
    """Those whose block name or whole name matches one of the globs, as ``tune --blocks`` takes them; all without any.

    Raises:
        UserError: none does.
    """
    if not globs:
        return list(parts)
    chosen = [
        row for row in parts if any(fnmatch(row.part.block, glob) or fnmatch(row.part.name, glob) for glob in globs)
    ]
    if not chosen:
        raise UserError(
            f"no shared part matches --blocks {' or '.join(map(repr, globs))}; try k3_* or block/*/16-24/*, "
            f"such as {parts[0].part.name}"
        )
    return chosen


def _names(named: Sequence[tuple[str, LatencyTable]]) -> tuple[str, ...]:
    own = [table.name or text for text, table in named]
    names = [text if own.count(name) > 1 else name for (text, _), name in zip(named, own, strict=True)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice: name different tables")
    return tuple(names)


def _finite(rank: float) -> float:
    """0 for tables of equal latencies, which have no ranks."""
    return float(rank) if math.isfinite(rank) else 0.0
