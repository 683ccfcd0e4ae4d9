"""Latency tables as CSV or Parquet: what others measured comes in, ours goes out.

Columns ``part,block,cin,cout,height,width,stride,latency_ms`` and optionally ``spread_ms,source``; sizes are the part's
input, one row a part. Latency and spread may come in other units, which the column's name says: ``latency_us``,
``spread_s``. Blocks need not be the paper's nine (``k7_e3`` is one too). One ``overhead`` row may carry the cost of one
call. An identity skip may have a row of its own (some runtimes copy the tensor there); it is kept and used. The file's
ending, ``.csv`` or ``.parquet``, says which form it is in. Whatever is not understood is refused, never left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tvmfbnet.config import MOST_LATENCY_MS
from tvmfbnet.errors import ArchError, ConfigError
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
    """Reads a table; its name is the file's.

    Raises:
        UserError: the ending is neither ``.csv`` nor ``.parquet``.
        StorageError: the file cannot be read.
        ConfigError: it is malformed; lists the problems with their lines.
    """
    content = read_content(path)
    return _table_of(content, _factors(content, path), path)


def _factors(content: Content, path: Path) -> Mapping[str, tuple[str, float]]:
    """Of ``latency`` and ``spread``, the column and its unit in ms; checks that every column has a meaning here."""
    found = {}
    for quantity in ("latency", "spread"):
        given = [unit for unit in _UNITS if f"{quantity}_{unit}" in content.columns]
        if len(given) > 1:
            raise ConfigError(str(path), [f"{quantity} is given in {' and '.join(given)}; leave one column"])
        if given:
            found[quantity] = (f"{quantity}_{given[0]}", _UNITS[given[0]])
    absent = [name for name in _REQUIRED[:-1] if name not in content.columns]
    absent += [] if "latency" in found else ["latency_ms"]
    if absent:
        raise ConfigError(str(path), [f"a latency table needs the column(s) {', '.join(absent)}"])
    known = {*_REQUIRED[:-1], "source", *(column for column, _ in found.values())}
    unknown = [name or "(without a name)" for name in content.columns if name not in known]
    if unknown:
        named = ", ".join(_REQUIRED + _OPTIONAL)
        raise ConfigError(str(path), [f"unknown column(s) {', '.join(unknown)[:200]}; remove them; known are {named}"])
    return found


def write_table(table: LatencyTable, path: Path) -> None:
    """Writes a table atomically, with spread and source, such that :func:`read_table` gives the same figures back.

    Raises:
        UserError: the ending is neither ``.csv`` nor ``.parquet``.
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
    _warn_of_zeros(cells, path)
    return LatencyTable(cells, overhead_ms or 0.0, path.stem)


def _places(rows: Sequence[str]) -> str:
    """The first row, and how many others there are: a file's mistakes repeat."""
    return rows[0] + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")


def _warn_of_zeros(cells: Mapping[NetPart, Cell], path: Path) -> None:
    """What computes costs something; a table that says otherwise is believed, but not in silence."""
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
    found = {"spread": 0.0}
    for quantity, (column, factor) in factors.items():
        if quantity == "latency" or fields[column]:
            found[quantity] = _number(fields, column, comma) * factor
            if found[quantity] > MOST_LATENCY_MS:
                raise ValueError(f"{column} is more than {MOST_LATENCY_MS:g} ms")
    return part, Cell(found["latency"], found["spread"], source)


def _checked(part: NetPart) -> NetPart:
    """A part with its block's one spelling; ``ValueError`` for one that no net could have, so that no row is idle."""
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
