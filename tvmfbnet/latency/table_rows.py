"""The rows of a table file, CSV or Parquet, as people and spreadsheets write them; nothing in them is dropped.

CSV may be separated by commas, semicolons or tabs, in UTF-8 or (with a byte order mark) UTF-16; with semicolons,
decimals may have a comma. A row with more or fewer fields than the header is refused: a decimal comma in a
comma-separated file would otherwise truncate every number.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.extras import require
from tvmfbnet.files import storage_errors

_MOST_BYTES = 64 * 2**20
_MOST_ROWS = 200_000
_SEPARATORS = (",", ";", "\t")
Form = Literal["csv", "parquet", "json"]
_FORMS: dict[str, Form] = {".csv": "csv", ".parquet": "parquet", ".json": "json"}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?P<mark>[.,][0-9]*)?|(?P<bare>[.,][0-9]+))(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Row:
    """One row: its place in the file, for messages, and its fields by column; ``problem`` says why it has none."""

    where: str
    fields: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Content:
    """The content of a table file.

    Attributes:
        columns: their names, each once.
        rows: those that are not empty.
        comma: whether decimals are written with a comma.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    comma: bool = False


def is_table_file(name: str) -> bool:
    """Whether a name ends as the files of latency tables do."""
    return name.lower().endswith(tuple(_FORMS))


def form_of(path: Path) -> Form:
    """The form of a table file, by its suffix; :class:`UserError` if it is none of a latency table."""
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: a latency table is a .csv, .parquet or .json file")
    return form


def read_content(path: Path) -> Content:
    """Reads a ``.csv`` or ``.parquet`` file.

    Raises:
        UserError: the suffix is neither.
        StorageError: the file cannot be read.
        ConfigError: it is malformed, in an encoding other than UTF-8 and UTF-16, or far too large.
    """
    parquet = form_of(path) == "parquet"
    with storage_errors(path, "read"), path.open("rb") as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(str(path), [f"larger than {_MOST_BYTES // 2**20} MiB: too large for a latency table"])
    content = _parquet(data, path) if parquet else _csv(data, path)
    twice = sorted({name for name in content.columns if content.columns.count(name) > 1})
    if twice:
        raise ConfigError(str(path), [f"column(s) {', '.join(twice)} occur twice"])
    return content


def number_of(text: str, comma: bool) -> float:
    """A finite number in plain digits; ``ValueError`` otherwise, with a hint if a decimal comma is the cause.

    Args:
        text: ``1.403``, ``1e-3``, or with ``comma`` ``1,403``.
        comma: whether decimals are written with a comma in this file.
    """
    match = _NUMBER.fullmatch(text)
    mark = (match["mark"] or match["bare"] or "")[:1] if match else ""
    if match is None or mark not in ("", "," if comma else "."):
        if re.fullmatch(r"[+-]?[0-9]+[.,][0-9]+", text):
            wanted = "a decimal comma, as elsewhere in this file" if comma else "a decimal point"
            raise ValueError(f"must be a number with {wanted}, not {text!r}")
        raise ValueError(f"must be a number, not {_short(text)}")
    value = float(text.replace(",", "."))
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"must be finite, not {_short(text)}")
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _csv(data: bytes, path: Path) -> Content:
    text = _decoded(data, path)
    header = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=header.count)
    rows: list[Row] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = tuple(name.strip() for name in next(reader, ()))
        for values in reader:
            if any(value.strip() for value in values):
                rows.append(_row(f"line {reader.line_num}", columns, values))
            if len(rows) > _MOST_ROWS:
                raise ConfigError(str(path), [f"more than {_MOST_ROWS} rows: too many for a latency table"])
    except csv.Error as error:
        raise ConfigError(str(path), [f"not a CSV file: {error}"]) from error
    numbers = (value for row in rows for value in row.fields.values())
    comma = separator == ";" and any(re.fullmatch(r"[+-]?[0-9]*,[0-9]+", value) for value in numbers)
    return Content(columns, tuple(rows), comma)


def _row(where: str, columns: tuple[str, ...], values: list[str]) -> Row:
    if len(values) == len(columns):
        return Row(where, dict(zip(columns, (value.strip() for value in values), strict=True)))
    hint = "; write decimals with a point, or separate fields by semicolons" if len(values) > len(columns) else ""
    return Row(where, {}, f"has {len(values)} fields, the header {len(columns)}{hint}")


def _decoded(data: bytes, path: Path) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), [f"not UTF-8 text (line {line}); save it as UTF-8"]) from error


def _parquet(data: bytes, path: Path) -> Content:
    require("parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        if file.metadata.num_rows > _MOST_ROWS:
            raise ConfigError(str(path), [f"more than {_MOST_ROWS} rows: too many for a latency table"])
        content = file.read()
        values = content.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(str(path), [f"not a Parquet file: {reason}"]) from error
    rows = (
        Row(f"row {number}", {name: "" if value is None else str(value).strip() for name, value in row.items()})
        for number, row in enumerate(values, start=1)
    )
    return Content(tuple(content.column_names), tuple(rows))
