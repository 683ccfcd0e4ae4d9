"""A latency table in which each block has the dtype that is fastest for it, conversions at its borders included.

A search needs costs that add up over layers, and those of dtypes do not: whether a conversion is needed depends on two
neighbours. So the dtype of the tensors between units is fixed, one for each shape of tensors, and every block takes the
dtype with which it is fastest between these: each block in each dtype is a candidate of its layer, and the faster one
stands for both. The dtypes of tensors are those with which the candidates take least time on average.

No net takes longer with its fastest dtypes (:func:`.mixed.fastest_dtypes`) than by this table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from tvmfbnet.dtypes import MIXED
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.cells import PREDICTED, Cell
from tvmfbnet.latency.mixed import UNIT_DTYPES, DtypeTables
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.space import BLOCK, HEAD_CONV, STEM, NetPart

_Shape = tuple[int, int, int]
# Up to this number of shapes all combinations of their dtypes are tried; beyond, one at a time is changed.
_FEW_SHAPES = 10


def mixed_table(tables: DtypeTables, parts: Sequence[NetPart] = ()) -> LatencyTable:
    """The table of mixed dtypes: all parts that both tables have, between tensors whose conversions were timed.

    Args:
        tables: of the two dtypes, and the conversions.
        parts: whose conversions must have been timed.

    Raises:
        LatencyError: conversions at the borders of one of ``parts`` were not timed; says which.
    """
    both = [part for part in tables.float32.cells if part in tables.int8.cells and not part.is_identity]
    units = [unit for unit in _units(both) if _is_timed(tables, unit, required=not set(unit.parts).isdisjoint(parts))]
    dtypes = _tensor_dtypes(tables, units)
    cells = dict[NetPart, Cell]()
    for unit in units:
        cells.update(_cells(tables, unit, dtypes))
    made = LatencyTable(cells, tables.int8.overhead_ms, tables.int8.name, context=tables.int8.context)
    return made.with_origin(MIXED, tables.int8.name)


@dataclass(frozen=True)
class _Candidate:
    """Parts that have one dtype, between two tensors; None where the net begins or ends."""

    parts: tuple[NetPart, ...]
    given: _Shape | None
    returned: _Shape | None


def _units(parts: Sequence[NetPart]) -> list[_Candidate]:
    """Stems, blocks and heads among parts; pool and classifier belong to the head before them."""
    units = list[_Candidate]()
    for part in parts:
        shape = (part.cin, part.height, part.width)
        returned = (part.cout, part.out_height, part.out_width)
        if part.part == STEM:
            units.append(_Candidate((part,), None, returned))
        elif part.part == BLOCK:
            units.append(_Candidate((part,), shape, returned))
        elif part.part == HEAD_CONV:
            after = [other for other in parts if other.part not in (STEM, BLOCK, HEAD_CONV) and other.cin == part.cout]
            units.append(_Candidate((part, *after), shape, None))
    return units


def _is_timed(tables: DtypeTables, unit: _Candidate, required: bool) -> bool:
    """Whether the conversions around a unit were timed; LatencyError where they are required and were not."""
    try:
        for dtype, other in (UNIT_DTYPES, UNIT_DTYPES[::-1]):
            _conversions(tables, unit, unit.given and other, dtype, unit.returned and other)
    except LatencyError:
        if required:
            raise
        return False
    return True


def _tensor_dtypes(tables: DtypeTables, units: Sequence[_Candidate]) -> dict[_Shape, str]:
    """The dtype of the tensors of each shape."""
    groups: dict[tuple[_Shape | None, _Shape | None], list[_Candidate]] = {}
    for unit in units:
        groups.setdefault((unit.given, unit.returned), []).append(unit)
    shapes = list(dict.fromkeys(shape for pair in groups for shape in pair if shape is not None))
    costs = {
        pair: {borders: fmean(_fastest(tables, unit, *borders)[1] for unit in alike) for borders in _borders(pair)}
        for pair, alike in groups.items()
    }

    def total_ms(dtypes: Mapping[_Shape, str]) -> float:
        return math.fsum(cost[_at(pair[0], dtypes), _at(pair[1], dtypes)] for pair, cost in costs.items())

    if len(shapes) <= _FEW_SHAPES:
        every = (dict(zip(shapes, chosen, strict=True)) for chosen in product(UNIT_DTYPES, repeat=len(shapes)))
        return min(every, key=total_ms, default={})
    return min((_improved(dict.fromkeys(shapes, dtype), total_ms) for dtype in UNIT_DTYPES), key=total_ms)


def _improved(dtypes: dict[_Shape, str], total_ms: Callable[[Mapping[_Shape, str]], float]) -> dict[_Shape, str]:
    """Changes one shape at a time until none helps."""
    while True:
        changed = [{**dtypes, shape: other} for shape in dtypes for other in UNIT_DTYPES]
        best = min(changed, key=total_ms)
        if total_ms(best) >= total_ms(dtypes):
            return dtypes
        dtypes = best


def _borders(pair: tuple[_Shape | None, _Shape | None]) -> list[tuple[str | None, str | None]]:
    """All dtypes of the tensors at the borders of a unit; equal ones where both are of one shape."""
    before, after = ([None] if shape is None else list(UNIT_DTYPES) for shape in pair)
    return [(one, other) for one in before for other in after if pair[0] != pair[1] or one == other]


def _at(shape: _Shape | None, dtypes: Mapping[_Shape, str]) -> str | None:
    return None if shape is None else dtypes[shape]


def _fastest(tables: DtypeTables, unit: _Candidate, before: str | None, after: str | None) -> tuple[str, float]:
    """The dtype with which a unit is fastest between tensors of these dtypes, and what it takes in milliseconds."""
    costs = {
        dtype: math.fsum(
            [
                *(tables.cell(part, dtype).latency_ms for part in unit.parts),
                *(cell.latency_ms for cell in _conversions(tables, unit, before, dtype, after)),
            ]
        )
        for dtype in UNIT_DTYPES
    }
    fastest = min(costs, key=costs.__getitem__)
    return fastest, costs[fastest]


def _conversions(
    tables: DtypeTables, unit: _Candidate, before: str | None, dtype: str, after: str | None
) -> list[Cell]:
    """What is converted before and after a unit in a dtype."""
    first, cells = unit.parts[0], list[Cell]()
    if before is not None:
        cells.append(tables.conversion(first, before, dtype))
    if after is not None and unit.returned is not None:
        channels, height, width = unit.returned
        following = replace(first, cin=channels, height=height, width=width)
        cells.append(tables.conversion(following, dtype, after))
    return cells


def _cells(tables: DtypeTables, unit: _Candidate, dtypes: Mapping[_Shape, str]) -> dict[NetPart, Cell]:
    """The cells of a unit's parts; conversions count to the first."""
    before, after = _at(unit.given, dtypes), _at(unit.returned, dtypes)
    dtype, _ = _fastest(tables, unit, before, after)
    cells = {part: tables.cell(part, dtype) for part in unit.parts}
    first, converted = unit.parts[0], _conversions(tables, unit, before, dtype, after)
    own = cells[first]
    predicted = any(cell.source == PREDICTED for cell in (own, *converted))
    cells[first] = replace(
        own,
        latency_ms=math.fsum(cell.latency_ms for cell in (own, *converted)),
        spread_ms=math.hypot(*(cell.spread_ms for cell in (own, *converted))),
        source=PREDICTED if predicted else own.source,
    )
    return cells
