"""Latency tables as CSV or Parquet: what others measured comes in, ours goes out.

Columns ``part,block,cin,cout,height,width,stride,latency_ms`` and optionally ``spread_ms,source``; sizes are the part's
input, one row a part. Blocks need not be the paper's nine (``k7_e3`` is one too). An ``overhead`` row carries the cost
of one call. An identity skip may have a row of its own (some runtimes copy the tensor there); it is kept and used.
The file's ending, ``.csv`` or ``.parquet``, says which form it is in.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tvmfbnet.errors import ArchError, ConfigError, UserError
from tvmfbnet.files import storage_errors, write_atomically, write_text
from tvmfbnet.latency.measurement import OVERHEAD, OVERHEAD_PART
from tvmfbnet.latency.table import MEASURED, PREDICTED, Cell, LatencyTable
from tvmfbnet.progress import say
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.space import NetPart

_SIZES = ("cin", "cout", "height", "width", "stride")
_REQUIRED = ("part", "block", *_SIZES, "latency_ms")
_OPTIONAL = ("spread_ms", "source")
_MAX_PROBLEMS = 8

# Where a row stands, for messages, and its fields.
_Row = tuple[str, Mapping[str, Any]]


def read_table(path: Path) -> LatencyTable:
    """Reads a table; its name is the file's.

    Raises:
        UserError: the ending is neither ``.csv`` nor ``.parquet``.
        StorageError: the file cannot be read.
        ConfigError: it is malformed; lists the problems with their lines.
    """
    is_parquet = _is_parquet(path)
    with storage_errors(path, "read"):
        data = path.read_bytes()
    columns, rows = _parquet_rows(data, path) if is_parquet else _csv_rows(data, path)
    absent = [name for name in _REQUIRED if name not in columns]
    if absent:
        raise ConfigError(str(path), [f"a latency table needs the column(s) {', '.join(absent)}"])
    return _table_of(rows, path)


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
    if _is_parquet(path):
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


def _is_parquet(path: Path) -> bool:
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: a latency table is a .csv or a .parquet file")
    return path.suffix == ".parquet"


def _csv_rows(data: bytes, path: Path) -> tuple[list[str], list[_Row]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        columns = list(reader.fieldnames or ())
        return columns, [(f"line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), [f"not a CSV file: {error}"]) from error


def _parquet_rows(data: bytes, path: Path) -> tuple[list[str], list[_Row]]:
    import pyarrow
    from pyarrow import parquet

    try:
        content = parquet.read_table(pyarrow.BufferReader(data))
        rows = content.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(str(path), [f"not a Parquet file: {str(error).splitlines()[0]}"]) from error
    return list(content.column_names), [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _table_of(rows: Iterable[_Row], path: Path) -> LatencyTable:
    cells: dict[NetPart, Cell] = {}
    overhead_ms = 0.0
    problems: list[str] = []
    for where, row in rows:
        try:
            part, cell = _read_row(row)
            if part in cells:
                raise ValueError(f"{part.name} has a row already")
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if part.part == OVERHEAD:
            overhead_ms = cell.latency_ms
        else:
            cells[part] = cell
    if not cells and not problems:
        problems.append("there are no rows")
    if problems:
        more = len(problems) - _MAX_PROBLEMS
        raise ConfigError(str(path), problems[:_MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else []))
    _warn_of_zeros(cells, path)
    return LatencyTable(cells, overhead_ms, path.stem)


def _warn_of_zeros(cells: Mapping[NetPart, Cell], path: Path) -> None:
    """What computes costs something; a table that says otherwise is believed, but not in silence."""
    zeros = [part.name for part, cell in cells.items() if cell.latency_ms == 0 and not part.is_identity]
    if zeros:
        named = ", ".join(zeros[:_MAX_PROBLEMS]) + (", ..." if len(zeros) > _MAX_PROBLEMS else "")
        say(f"warning: {path} gives {len(zeros)} part(s) that compute something 0 ms: {named}")


def _read_row(row: Mapping[str, Any]) -> tuple[NetPart, Cell]:
    """One row; ``ValueError`` says what is wrong with it."""
    sizes = [_number(row, name) for name in _SIZES]
    if any(size != int(size) or size < 1 for size in sizes):
        raise ValueError(f"{', '.join(_SIZES)} must be whole numbers of 1 or more")
    part = NetPart(_text(row, "part"), _text(row, "block"), *(int(size) for size in sizes))
    if part.part != OVERHEAD:
        try:
            convs_of(part)
        except ArchError as error:
            raise ValueError(str(error)) from error
    source = _text(row, "source") or MEASURED
    if source not in (MEASURED, PREDICTED):
        raise ValueError(f"source must be {MEASURED} or {PREDICTED}, not {source!r}")
    spread = _number(row, "spread_ms") if _text(row, "spread_ms") else 0.0
    return part, Cell(_number(row, "latency_ms"), spread, source)


def _number(row: Mapping[str, Any], name: str) -> float:
    text = _text(row, name)
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, not {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and not negative, not {text}")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value).strip()
