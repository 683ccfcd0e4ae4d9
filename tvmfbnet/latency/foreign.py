"""Latency tables as CSV: what others measured comes in, ours goes out.

Columns ``part,block,cin,cout,height,width,stride,latency_ms`` and optionally ``spread_ms,source``; sizes are the part's
input, one row a part. An ``overhead`` row carries the cost of one call. An identity skip may have a row of its own
(some runtimes copy the tensor there); it is kept and used.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from tvmfbnet.errors import ArchError, ConfigError
from tvmfbnet.files import storage_errors, write_text
from tvmfbnet.latency.measurement import OVERHEAD, OVERHEAD_PART
from tvmfbnet.latency.table import MEASURED, PREDICTED, Cell, LatencyTable
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.space import NetPart

_SIZES = ("cin", "cout", "height", "width", "stride")
_REQUIRED = ("part", "block", *_SIZES, "latency_ms")
_OPTIONAL = ("spread_ms", "source")
_MAX_PROBLEMS = 8


def read_csv(path: Path) -> LatencyTable:
    """Reads a table; its name is the file's.

    Raises:
        StorageError: the file cannot be read.
        ConfigError: it is malformed; lists the problems with their lines.
    """
    with storage_errors(path, "read"):
        data = path.read_bytes()
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        columns = rows.fieldnames or ()
        absent = [name for name in _REQUIRED if name not in columns]
        if absent:
            raise ConfigError(str(path), [f"a latency table needs the column(s) {', '.join(absent)}"])
        return _read_rows(rows, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), [f"not a CSV file: {error}"]) from error


def _read_rows(rows: csv.DictReader[str], path: Path) -> LatencyTable:
    cells: dict[NetPart, Cell] = {}
    overhead_ms = 0.0
    problems: list[str] = []
    for row in rows:
        try:
            part, cell = _read_row(row)
            if part in cells:
                raise ValueError(f"{part.name} has a row already")
        except ValueError as error:
            problems.append(f"line {rows.line_num}: {error}")
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
    return LatencyTable(cells, overhead_ms, path.stem)


def _read_row(row: Mapping[str, str | None]) -> tuple[NetPart, Cell]:
    """One row; ``ValueError`` says what is wrong with it."""
    sizes = [_number(row, name) for name in _SIZES]
    if any(size != int(size) or size < 1 for size in sizes):
        raise ValueError(f"{', '.join(_SIZES)} must be whole numbers of 1 or more")
    part = NetPart((row["part"] or "").strip(), (row["block"] or "").strip(), *(int(size) for size in sizes))
    if part.part != OVERHEAD:
        try:
            convs_of(part)
        except ArchError as error:
            raise ValueError(str(error)) from error
    source = (row.get("source") or MEASURED).strip()
    if source not in (MEASURED, PREDICTED):
        raise ValueError(f"source must be {MEASURED} or {PREDICTED}, not {source!r}")
    spread = _number(row, "spread_ms") if row.get("spread_ms") else 0.0
    return part, Cell(_number(row, "latency_ms"), spread, source)


def _number(row: Mapping[str, str | None], name: str) -> float:
    text = (row[name] or "").strip()
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, not {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and not negative, not {text}")
    return value


def write_csv(table: LatencyTable, path: Path) -> None:
    """Writes a table atomically, with spread and source, such that :func:`read_csv` gives the same figures back."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_REQUIRED, *_OPTIONAL))
    cells = dict(table.cells)
    if table.overhead_ms:
        cells = {OVERHEAD_PART: Cell(table.overhead_ms), **cells}
    for part, cell in cells.items():
        figures = (repr(cell.latency_ms), repr(cell.spread_ms), cell.source)
        writer.writerow((*part.to_dict().values(), *figures))
    write_text(path, text.getvalue())
