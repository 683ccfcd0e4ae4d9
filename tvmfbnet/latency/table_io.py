"""Importing and exporting latency tables as CSV, Parquet or JSON.

Columns ``part,block,cin,cout,height,width,stride,latency_ms`` and optionally ``spread_ms,source,dtype`` and the energy
of each part, ``energy_mj,energy_spread_mj,energy_source``; one row per part, sizes are those of its input. A table is
of one dtype, and names it where it is not float32; one source told all its energies. Latency, energy and their spreads
may be in other units, as the column's name says: ``latency_us``, ``spread_s``, ``energy_uj``. A row without energy
leaves it empty. Blocks need not be the paper's nine (``k7_e3`` is valid too). One ``overhead`` row may give the cost of
a call. An identity skip may have a row of its own (some runtimes copy the tensor there), which is used. The file's
suffix, ``.csv``, ``.parquet`` or ``.json``, decides its form. Unknown content is refused, never dropped. JSON has the
form of a run's ``table.json`` and keeps all of a cell: repeats, trials and drift as well.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tvmfbnet.batches import LARGEST_BATCH
from tvmfbnet.config import MOST_LATENCY_MS
from tvmfbnet.dtypes import FLOAT32, require_dtype
from tvmfbnet.errors import ArchError, ConfigError, LatencyError, UserError
from tvmfbnet.extras import require
from tvmfbnet.files import read_model, write_atomically, write_json, write_text
from tvmfbnet.latency.cells import MEASURED, SIMULATED, SOURCES, Cell, Source
from tvmfbnet.latency.energies import COLUMNS, Energies
from tvmfbnet.latency.measurement import OVERHEAD, OVERHEAD_PART
from tvmfbnet.latency.origin import LatencyOrigin
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_rows import Content, Row, form_of, number_of, read_content
from tvmfbnet.progress import say
from tvmfbnet.run_files import TableRecord
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.heads import HEAD_ASPP, HEAD_BOXES, HEAD_LOGITS, HEAD_RESIZE
from tvmfbnet.space.space import BLOCK, HEAD_CONV, HEAD_LINEAR, HEAD_POOL, STEM, NetPart

_SIZES = ("cin", "cout", "height", "width", "stride")
_REQUIRED = ("part", "block", *_SIZES, "latency_ms")
_WRITTEN = (*_REQUIRED, "spread_ms", "source")
_OPTIONAL = ("spread_ms", "source", "dtype", "batch", *COLUMNS)
_TIMES, _ENERGIES = {"ms": 1.0, "us": 1e-3, "s": 1e3}, {"mj": 1.0, "uj": 1e-3, "j": 1e3}
_UNITS = {"latency": _TIMES, "spread": _TIMES, "energy": _ENERGIES, "energy_spread": _ENERGIES}
_MOST_ENERGY_MJ = 1e9
_FIXED = {STEM: "conv_k3", HEAD_CONV: "conv_k1", HEAD_POOL: "avgpool", HEAD_LINEAR: "linear"}
_FIXED |= {HEAD_ASPP: "gated_k1", HEAD_LOGITS: "conv_k1", HEAD_RESIZE: "bilinear", HEAD_BOXES: "ssdlite"}
_MOST_SIZE = 1_000_000
_LISTED = 8


def read_table(path: Path) -> LatencyTable:
    """Reads a table and names it after its file.

    Raises:
        UserError: the suffix is none of a latency table.
        StorageError: the file cannot be read.
        ConfigError: it is malformed; lists the problems with their lines.
    """
    if form_of(path) == "json":
        return _read_json(path)
    content = read_content(path)
    return _table_of(content, _factors(content, path), path)


def require_stated_dtype(table: LatencyTable, dtype: str, where: str) -> None:
    """Refuses a table that states another dtype than the one it is to be used for; one that states none is accepted.

    Args:
        table: an imported table.
        dtype: name of the dtype.
        where: the table is from, for messages.

    Raises:
        LatencyError: it states another; names both.
    """
    if table.stated_dtype not in ("", dtype):
        raise LatencyError(
            f"{where} has latencies in {table.stated_dtype}, not in {dtype}: use it with dtype {table.stated_dtype}, "
            f"or a table of {dtype}"
        )


def _factors(content: Content, path: Path) -> Mapping[str, tuple[str, float]]:
    """The column of each quantity, and its unit in ms or mJ; checks that every column is known."""
    factors = {}
    for quantity, units in _UNITS.items():
        given = [unit for unit in units if f"{quantity}_{unit}" in content.columns]
        if len(given) > 1:
            raise ConfigError(str(path), [f"{quantity} is given in {' and '.join(given)}; leave one column"])
        if given:
            factors[quantity] = (f"{quantity}_{given[0]}", units[given[0]])
    absent = [name for name in _REQUIRED[:-1] if name not in content.columns]
    absent += [] if "latency" in factors else ["latency_ms"]
    has_more = "energy_spread" in factors or "energy_source" in content.columns
    absent += ["energy_mj"] if has_more and "energy" not in factors else []
    if absent:
        raise ConfigError(str(path), [f"a latency table needs the column(s) {', '.join(absent)}"])
    columns = {
        *_REQUIRED[:-1],
        "source",
        "dtype",
        "batch",
        "energy_source",
        *(column for column, _ in factors.values()),
    }
    unknown = [name or "(without a name)" for name in content.columns if name not in columns]
    if unknown:
        named = ", ".join(_REQUIRED + _OPTIONAL)
        raise ConfigError(str(path), [f"unknown column(s) {', '.join(unknown)[:200]}; remove them; known are {named}"])
    return factors


def write_table(table: LatencyTable, path: Path) -> None:
    """Writes a table atomically, with spread and source, so that :func:`read_table` restores the same values.

    Raises:
        UserError: the suffix is none of a latency table, or the table is corrected and the form cannot say so.
        StorageError: the file cannot be written.
    """
    form, cells = form_of(path), dict(table.cells)
    if form == "json":
        write_json(path, table_content(table, cells))
        return
    if table.correction:
        raise UserError(f"{path}: a corrected table can only be written as .json, which says that it is corrected")
    if (
        table.overhead_ms or table.is_simulated or any(table.energies.call)
    ):  # its row says so even where all the others are predicted
        cells = {OVERHEAD_PART: Cell(table.overhead_ms, source=table.basis), **cells}
    # Tables of float32 and of single images do not say so: they stay as they always were.
    dtype: dict[str, Any] = {} if table.data_type == FLOAT32 else {"dtype": table.data_type.name}
    dtype |= {} if table.batch == 1 else {"batch": table.batch}
    rows: list[dict[str, Any]] = [
        {
            **part.to_dict(),
            **{"latency_ms": cell.latency_ms, "spread_ms": cell.spread_ms, "source": cell.source},
            **dtype,
            **table.energies.record(part),
        }
        for part, cell in cells.items()
    ]
    if form == "parquet":
        require("parquet")
        import pyarrow
        from pyarrow import parquet

        content = pyarrow.Table.from_pylist(rows)
        write_atomically(path, lambda temporary: parquet.write_table(content, temporary))
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, tuple(rows[0]) if rows else _WRITTEN, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # floats are written so that they read back equal
    write_text(path, text.getvalue())


def table_content(table: LatencyTable, parts: Iterable[NetPart]) -> dict[str, Any]:
    """The cells of ``parts`` and all that goes with them as plain data: the content of a ``.json`` table."""
    values = {"target": table.name or "table", "overhead_ms": table.overhead_ms, "correction": table.correction}
    dtype = {} if table.data_type == FLOAT32 else {"dtype": table.data_type.name}
    values |= {} if table.batch == 1 else {"batch": table.batch}
    call = {"call_energy": table.energies.record(OVERHEAD_PART)} if any(table.energies.call) else {}
    return {**values, **dtype, "origin": table.origin.to_dict(), **call, "cells": table.to_records(parts)}


def _read_json(path: Path) -> LatencyTable:
    """A table from its ``.json`` form, as :func:`write_table` and a run write it."""
    record = read_model(path, TableRecord)
    cells: dict[NetPart, Cell] = {}
    problems = []
    for number, item in enumerate(record.cells, start=1):
        values = item.model_dump()
        try:
            part = _checked(NetPart.from_dict(values))
            if part.part == OVERHEAD or part in cells:
                raise ValueError(f"{part.name} is given twice" if part in cells else "overhead_ms has the overhead")
            if not 0 <= item.latency_ms <= MOST_LATENCY_MS:
                raise ValueError(f"latency_ms must be from 0 to {MOST_LATENCY_MS:g}, but is {item.latency_ms:g}")
        except ValueError as error:
            problems.append(f"cell {number}: {error}")
            continue
        cells[part] = Cell(**{field.name: values[field.name] for field in fields(Cell)})
    if problems:
        raise ConfigError(str(path), problems)
    stated = record.origin is not None and record.origin.simulated
    origin = _checked_origin([cell.source for cell in cells.values()], path, stated)
    _warn_about_zeros(cells, path)
    dtype = _one_dtype([record.dtype or ""], path)
    named = (cells, record.overhead_ms, record.target, record.correction)
    call = [] if record.call_energy is None else [{**OVERHEAD_PART.to_dict(), **record.call_energy.model_dump()}]
    energies = _energies([*(item.model_dump() for item in record.cells), *call], path)
    return LatencyTable(*named, stated_dtype=dtype, origin=origin, energies=energies, batch=record.batch)


def _checked_origin(sources: Sequence[Source], path: Path, stated: bool = False) -> LatencyOrigin:
    """Whether a file's latencies are a model's: it says so itself, or one of its rows does, be it the overhead's.

    Raises:
        ConfigError: it mixes what a device took with what a model says.
    """
    count = Counter(sources)
    if count[MEASURED] and count[SIMULATED]:
        raise ConfigError(
            str(path),
            [f"{count[MEASURED]} measured and {count[SIMULATED]} simulated latencies; keep them in two tables"],
        )
    if count[MEASURED] and stated:
        raise ConfigError(str(path), [f"it says that it is simulated, and has {count[MEASURED]} measured latencies"])
    return LatencyOrigin(simulated=stated or count[SIMULATED] > 0)


def _table_of(content: Content, factors: Mapping[str, tuple[str, float]], path: Path) -> LatencyTable:
    cells: dict[NetPart, Cell] = {}
    energies: list[dict[str, Any]] = []
    overhead: Cell | None = None
    problems: dict[str, list[str]] = {}  # what is wrong, and where
    for row in content.rows:
        try:
            part, cell = _read_row(row, factors, content.comma)
            energy = _read_energy(row, factors, content.comma)
            if part in cells or (part.part == OVERHEAD and overhead is not None):
                raise ValueError(f"{part.part if part.part == OVERHEAD else part.name} has a row already")
        except ValueError as error:
            problems.setdefault(str(error), []).append(row.where)
            continue
        if part.part == OVERHEAD:
            overhead = cell
        else:
            cells[part] = cell
        if energy is not None:
            told = {"energy_source": row.fields.get("energy_source") or ""}
            energies.append({**part.to_dict(), "energy_mj": energy[0], "energy_spread_mj": energy[1], **told})
    if not cells and not problems:
        raise ConfigError(str(path), ["there are no rows"])
    if problems:
        raise ConfigError(str(path), [f"{_places(rows)}: {problem}" for problem, rows in problems.items()])
    # The overhead of a table of measured latencies counts as measured.
    labelled = [*cells.values(), *([] if overhead is None else [overhead])]
    origin = _checked_origin([cell.source for cell in labelled], path)
    _warn_about_zeros(cells, path)
    dtype = _one_dtype([row.fields.get("dtype") or "" for row in content.rows], path)
    overhead_ms = 0.0 if overhead is None else overhead.latency_ms
    measured = _energies(energies, path)
    labels: dict[str, Any] = {"origin": origin, "energies": measured, "batch": _one_batch(content, path)}
    return LatencyTable(cells, overhead_ms, path.stem, stated_dtype=dtype, **labels)


def _energies(records: Iterable[Mapping[str, Any]], path: Path) -> Energies:
    try:
        return Energies.from_records(records)
    except ValueError as error:
        raise ConfigError(str(path), [str(error)]) from error


def _one_dtype(names: Iterable[str], path: Path) -> str:
    """The dtype that all rows name, empty where none does."""
    different = list(dict.fromkeys(names))
    if len(different) > 1:
        there = ", ".join(name[:20] or "none" for name in different[:_LISTED])
        raise ConfigError(str(path), [f"rows name different dtypes ({there}); keep one table for each"])
    try:
        return require_dtype(different[0]) if different[0] else ""
    except ValueError as error:
        raise ConfigError(str(path), [f"dtype {error}"]) from error


def _one_batch(content: Content, path: Path) -> int:
    """The batch that all rows name, 1 where none does."""
    different = list(dict.fromkeys(row.fields.get("batch") or "1" for row in content.rows))
    if len(different) > 1:
        raise ConfigError(str(path), [f"rows name different batches ({', '.join(different[:_LISTED])})"])
    number = int(different[0]) if re.fullmatch(r"[0-9]{1,4}", different[0]) else 0
    if not 1 <= number <= LARGEST_BATCH:
        raise ConfigError(str(path), [f"batch must be a number of images from 1 to {LARGEST_BATCH}"])
    return number


def require_batch(table: LatencyTable, batch: int, where: str) -> None:
    """Refuses a table of another batch than the one it is to be used for.

    Raises:
        LatencyError: names both.
    """
    if table.batch != batch:
        raise LatencyError(
            f"{where} has latencies of {table.batch} image(s) a call, not of {batch}: use it with batch {table.batch}"
        )


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
    sizes = [_number(row.fields, name, comma) for name in _SIZES]
    if any(size != int(size) or not 1 <= size <= _MOST_SIZE for size in sizes):
        raise ValueError(f"{', '.join(_SIZES)} must be whole numbers from 1 to {_MOST_SIZE}")
    part = _checked(NetPart(row.fields["part"], row.fields["block"], *(int(size) for size in sizes)))
    source = _source(row.fields.get("source") or MEASURED)
    values = {"spread": 0.0}
    for quantity, (column, factor) in factors.items():
        if quantity.startswith("energy"):
            continue
        if quantity == "latency" or row.fields[column]:
            values[quantity] = _number(row.fields, column, comma) * factor
            if values[quantity] > MOST_LATENCY_MS:
                raise ValueError(f"{column} is more than {MOST_LATENCY_MS:g} ms")
    return part, Cell(values["latency"], values["spread"], source)


def _read_energy(row: Row, factors: Mapping[str, tuple[str, float]], comma: bool) -> tuple[float, float] | None:
    """A row's energy and spread in mJ; None where it has none; ``ValueError`` says what is wrong with it."""
    values = []
    for quantity in ("energy", "energy_spread"):
        column, factor = factors.get(quantity, ("", 1.0))
        values.append(_number(row.fields, column, comma) * factor if column and row.fields[column] else None)
        if values[-1] is not None and values[-1] > _MOST_ENERGY_MJ:
            raise ValueError(f"{column} is more than {_MOST_ENERGY_MJ:g} mJ")
    energy, spread = values
    if energy is None and (spread is not None or row.fields.get("energy_source")):
        what = "source" if spread is None else "spread"
        raise ValueError(f"there is a {what} of the energy, but no energy")
    return None if energy is None else (energy, spread or 0.0)


def _source(text: str) -> Source:
    for source in SOURCES:
        if text == source:
            return source
    raise ValueError(f"source must be {', '.join(SOURCES[:-1])} or {SOURCES[-1]}, not {text!r}")


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
