"""Nets of mixed dtypes: each unit (stem, block, head) in float32 or int8, and conversions where neighbours differ.

The dtype of a block changes what it costs and not what it computes, so it is chosen by cost alone: for one net that is
a shortest path over its units, whose states are the dtypes (:func:`fastest_dtypes`, exact). Searches take the table of
:mod:`tvmfbnet.latency.mixed_table` instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tvmfbnet.advice import tune
from tvmfbnet.dtypes import FLOAT32, INT8
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.cells import NOTHING, Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.borders import DEQUANTISE, QUANTISE, NetUnit, conversion_before, units_of
from tvmfbnet.space.space import NetPart, Space

# The dtypes of units, in the order in which ties are decided.
UNIT_DTYPES = (FLOAT32.name, INT8.name)


@dataclass(frozen=True)
class DtypeTables:
    """The latency tables of one target in float32 and in int8; the latter has the conversions between them.

    Raises:
        LatencyError: they are of other dtypes or of different contexts, or no conversions were timed.
    """

    float32: LatencyTable
    int8: LatencyTable

    def __post_init__(self) -> None:
        given = self.float32.data_type.name, self.int8.data_type.name
        if given != UNIT_DTYPES:
            raise LatencyError(f"mixed dtypes need tables in {' and '.join(UNIT_DTYPES)}, not {' and '.join(given)}")
        contexts = [
            replace(table.context, dtype="", target_key="") for table in (self.float32, self.int8) if table.context
        ]
        if len(contexts) == 2 and contexts[0] != contexts[1]:
            raise LatencyError(
                f"{self.int8.name} was measured in another context in int8 than in float32 "
                f"({contexts[0].difference(contexts[1])}): tune both in one"
            )
        if self.float32.is_simulated != self.int8.is_simulated:
            raise LatencyError(f"{self.int8.name} was simulated in one dtype and measured in the other: tune both")
        if not self.int8.conversions:
            raise LatencyError(
                f"conversions between float32 and int8 were not timed for {self.int8.name}: run "
                f"{tune(self.int8.name, dtype=INT8.name)}"
            )

    def cell(self, part: NetPart, dtype: str) -> Cell:
        """What a part costs in a dtype; LatencyError if that is unknown."""
        return (self.int8 if dtype == INT8.name else self.float32).lookup(part)

    def conversion(self, part: NetPart, before: str, after: str) -> Cell:
        """What it costs to convert a part's input from one dtype to another.

        Raises:
            LatencyError: that was not timed.
        """
        if before == after:
            return NOTHING
        wanted = conversion_before(part, QUANTISE if after == INT8.name else DEQUANTISE)
        if wanted not in self.int8.conversions:
            raise LatencyError(
                f"latency table {self.int8.name} lacks {wanted.name}: run {tune(self.int8.name, dtype=INT8.name)}"
            )
        return self.int8.conversions[wanted]


@dataclass(frozen=True)
class ChosenDtypes:
    """The dtypes of a net's units.

    Attributes:
        units: name and dtype of each, in order.
        latency_ms: of the net, conversions included.
        conversions: how many tensors are converted between units.
        conversions_ms: what these cost together.
    """

    units: tuple[tuple[str, str], ...]
    latency_ms: float
    conversions: int
    conversions_ms: float

    @property
    def float32(self) -> tuple[str, ...]:
        """Names of the units in float32."""
        return tuple(name for name, dtype in self.units if dtype == FLOAT32.name)

    def describe(self) -> str:
        """For people: ``3 of 24 units in float32 (stem, layer3, head), 4 conversions``."""
        named = f" ({', '.join(self.float32)})" if 0 < len(self.float32) < len(self.units) else ""
        count = f"{self.conversions} conversion" + ("" if self.conversions == 1 else "s")
        return f"{len(self.float32)} of {len(self.units)} units in float32{named}, the others in int8, {count}"


def latency_in(tables: DtypeTables, arch: Arch, space: Space, dtypes: Sequence[str]) -> ChosenDtypes:
    """What a net takes with given dtypes of its units, which are in the order of :func:`.borders.units_of`."""
    units = units_of(arch, space)
    parts_ms = math.fsum(
        tables.cell(part, dtype).latency_ms for unit, dtype in zip(units, dtypes, strict=True) for part in unit.parts
    )
    changes = [
        tables.conversion(unit.parts[0], before, after).latency_ms
        for unit, before, after in zip(units[1:], dtypes, dtypes[1:], strict=False)
        if before != after
    ]
    names = tuple((unit.name, dtype) for unit, dtype in zip(units, dtypes, strict=True))
    conversions_ms = math.fsum(changes)
    total_ms = tables.int8.overhead_ms + parts_ms + conversions_ms
    return ChosenDtypes(names, total_ms, len(changes), conversions_ms)


def fastest_dtypes(tables: DtypeTables, arch: Arch, space: Space) -> ChosenDtypes:
    """The dtypes with which a net takes least time: a shortest path, exactly; float32 where two take the same.

    Raises:
        LatencyError: parts or conversions are missing; says which.
    """
    paths: dict[str, tuple[float, tuple[str, ...]]] = {}
    for number, unit in enumerate(units_of(arch, space)):
        paths = {dtype: _cheapest_path(tables, unit, dtype, paths if number else None) for dtype in UNIT_DTYPES}
    _, dtypes = min(paths.values(), key=lambda path: path[0])
    return latency_in(tables, arch, space, dtypes)


def _cheapest_path(
    tables: DtypeTables, unit: NetUnit, dtype: str, paths: Mapping[str, tuple[float, tuple[str, ...]]] | None
) -> tuple[float, tuple[str, ...]]:
    """The path to a unit in one dtype that costs least, and its cost in milliseconds."""
    own_ms = math.fsum(tables.cell(part, dtype).latency_ms for part in unit.parts)
    if paths is None:
        return own_ms, (dtype,)
    ways = [
        (cost_ms + tables.conversion(unit.parts[0], before, dtype).latency_ms, taken)
        for before, (cost_ms, taken) in paths.items()
    ]
    cost_ms, taken = min(ways, key=lambda way: way[0])
    return cost_ms + own_ms, (*taken, dtype)
