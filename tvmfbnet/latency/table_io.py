"""Importing and exporting latency tables as CSV or Parquet.

Columns ``part,block,cin,cout,height,width,stride,latency_ms`` and optionally ``spread_ms,source``; one row per part,
sizes are those of its input. Latency and spread may be in other units, as the column's name says: ``latency_us``,
``spread_s``. Blocks need not be the paper's nine (``k7_e3`` is valid too). One ``overhead`` row may give the cost of a
call. An identity skip may have a row of its own (some runtimes copy the tensor there), which is used. The file's
suffix, ``.csv`` or ``.parquet``, decides its form. Unknown content is refused, never dropped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tvmfbnet.config import MOST_LATENCY_MS
from tvmfbnet.errors import ArchError, ConfigError
from tvmfbnet.extras import require
from tvmfbnet.files import write_atomically, write_text
from tvmfbnet.latency.measurement import OVERHEAD, OVERHEAD_PART
from tvmfbnet.latency.table import MEASURED, PREDICTED, Cell, LatencyTable
from tvmfbnet.latency.table_rows import Content, Row, is_parquet, number_of, read_content
from tvmfbnet.progress import say
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.space import BLOCK, HEAD_CONV, HEAD_LINEAR, HEAD_POOL, STEM, NetPart

_SIZES = ("cin", "cout", "height", "width", "stride")
_REQUIRED = ("part", "block", *_SIZES, "latency_ms")
_OPTIONAL = ("spread_ms", "source")
_UNITS = {"ms": 1.0, "us": 1e-3, "s": 1e3}
_FIXED = {STEM: "conv_k3", HEAD_CONV: "conv_k1", HEAD_POOL: "avgpool", HEAD_LINEAR: "linear"}
_MOST_SIZE = 1_000_000
_LISTED = 8


def read_table(path: Path) -> LatencyTable:
    """Reads a table and names it after its file.

    Raises:
        UserError: the suffix is neither ``.csv`` nor ``.parquet``.
        StorageError: the file cannot be read.
        ConfigError: it is malformed; lists the problems with their lines.
    """
    content = read_content(path)
    return _table_of(content, _factors(content, path), path)


def _factors(content: Content, path: Path) -> Mapping[str, tuple[str, float]]:
    """The column and the unit in ms, for ``latency`` and ``spread``; checks that every column is known."""
    factors = {}
    for quantity in ("latency", "spread"):
        given = [unit for unit in _UNITS if f"{quantity}_{unit}" in content.columns]
        if len(given) > 1:
            raise ConfigError(str(path), [f"{quantity} is given in {' and '.join(given)}; leave one column"])
        if given:
            factors[quantity] = (f"{quantity}_{given[0]}", _UNITS[given[0]])
    absent = [name for name in _REQUIRED[:-1] if name not in content.columns]
    absent += [] if "latency" in factors else ["latency_ms"]
    if absent:
        raise ConfigError(str(path), [f"a latency table needs the column(s) {', '.join(absent)}"])
    known = {*_REQUIRED[:-1], "source", *(column for column, _ in factors.values())}
    unknown = [name or "(without a name)" for name in content.columns if name not in known]
    if unknown:
        named = ", ".join(_REQUIRED + _OPTIONAL)
        raise ConfigError(str(path), [f"unknown column(s) {', '.join(unknown)[:200]}; remove them; known are {named}"])
    return factors


def write_table(table: LatencyTable, path: Path) -> None:
    """Writes a table atomically, with spread and source, so that :func:`read_table` restores the same values.

    Raises:
        UserError: the suffix is neither ``.csv`` nor ``.parquet``.
        StorageError: the file cannot be written.
    """
    cells = dict(table.cells)
    if table.overhead_ms:
        cells = {OVERHEAD_PART: Cell(table.overhead_ms), **cells}
    rows = [
        {**part.to_dict(), "latency_ms": cell.latency_ms, "spread_ms": cell.spread_ms, "source": cell.source}
        for part, cell in cells.items()
    ]
    if is_parquet(path):
        require("parquet")
        import pyarrow
        from pyarrow import parquet

        content = pyarrow.Table.from_pylist(rows)
        write_atomically(path, lambda temporary: parquet.write_table(content, temporary))
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*_REQUIRED, *_OPTIONAL), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # floats are written so that they read back equal
    write_text(path, text.getvalue())


def _table_of(content: Content, factors: Mapping[str, tuple[str, float]], path: Path) -> LatencyTable:
    cells: dict[NetPart, Cell] = {}
    overhead_ms: float | None = None
    problems: dict[str, list[str]] = {}  # what is wrong, and where
    for row in content.rows:
        try:
            part, cell = _read_row(row, factors, content.comma)
            if part in cells or (part.part == OVERHEAD and overhead_ms is not None):
                raise ValueError(f"{part.part if part.part == OVERHEAD else part.name} has a row already")
        except ValueError as error:
            problems.setdefault(str(error), []).append(row.where)
            continue
        if part.part == OVERHEAD:
            overhead_ms = cell.latency_ms
        else:
            cells[part] = cell
    if not cells and not problems:
        raise ConfigError(str(path), ["there are no rows"])
    if problems:
        raise ConfigError(str(path), [f"{_places(rows)}: {problem}" for problem, rows in problems.items()])
    _warn_about_zeros(cells, path)
    return LatencyTable(cells, overhead_ms or 0.0, path.stem)


def _places(rows: Sequence[str]) -> str:
    """The first row and the number of others, as a file's mistakes tend to repeat."""
    return rows[0] + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")


def _warn_about_zeros(cells: Mapping[NetPart, Cell], path: Path) -> None:
    """Accepts parts of 0 ms that compute something, with a warning."""
    zeros = [part.name for part, cell in cells.items() if cell.latency_ms == 0 and not part.is_identity]
    if zeros:
        named = ", ".join(zeros[:_LISTED]) + (", ..." if len(zeros) > _LISTED else "")
        say(f"warning: {path} gives {len(zeros)} part(s) that compute something 0 ms: {named}")


def _read_row(row: Row, factors: Mapping[str, tuple[str, float]], comma: bool) -> tuple[NetPart, Cell]:
    """One row; ``ValueError`` says what is wrong with it."""
    if row.problem:
        raise ValueError(row.problem)
    fields = row.fields
    sizes = [_number(fields, name, comma) for name in _SIZES]
    if any(size != int(size) or not 1 <= size <= _MOST_SIZE for size in sizes):
        raise ValueError(f"{', '.join(_SIZES)} must be whole numbers from 1 to {_MOST_SIZE}")
    part = _checked(NetPart(fields["part"], fields["block"], *(int(size) for size in sizes)))
    source = fields.get("source") or MEASURED
    if source not in (MEASURED, PREDICTED):
        raise ValueError(f"source must be {MEASURED} or {PREDICTED}, not {source!r}")
    values = {"spread": 0.0}
    for quantity, (column, factor) in factors.items():
        if quantity == "latency" or fields[column]:
            values[quantity] = _number(fields, column, comma) * factor
            if values[quantity] > MOST_LATENCY_MS:
                raise ValueError(f"{column} is more than {MOST_LATENCY_MS:g} ms")
    return part, Cell(values["latency"], values["spread"], source)


def _checked(part: NetPart) -> NetPart:
    """A part with its block's canonical name; ``ValueError`` for a part that no net could have."""
    if part.part == OVERHEAD:
        return part
    try:
        convs_of(part)
        spec = parse_block(part.block) if part.part == BLOCK else None
    except ArchError as error:
        raise ValueError(str(error)) from error
    if part.part != BLOCK and part.block != _FIXED[part.part]:
        raise ValueError(f"the block of {part.part} is called {_FIXED[part.part]}, not {part.block!r}")
    if spec is None:
        return part
    if part.cin % spec.groups or part.cout % spec.groups:
        raise ValueError(f"{spec.groups} groups do not divide {part.cin} input and {part.cout} output channels")
    return replace(part, block=spec.name)


def _number(fields: Mapping[str, str], name: str, comma: bool) -> float:
    try:
        value = number_of(fields[name], comma)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    if value < 0:
        raise ValueError(f"{name} must not be negative, but is {fields[name]}")
    return value
