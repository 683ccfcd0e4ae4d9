"""What every command shares: printing results, as tables for people or as JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from tvmfbnet.dtypes import DTYPES, MIXED
from tvmfbnet.errors import UserError
from tvmfbnet.extras import require

MOST_SEED = 2**32 - 1
SPACE_HELP = "Search space: a shipped name or a .yaml file; append @64,classes=3,channels=1 to change it."
TORCH_DEVICE_HELP = "Where torch computes on this machine: auto, cpu, cuda, cuda:1. Not the device of --target."
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", metavar="DTYPE", help=f"{' or '.join(DTYPES)}, in place of the target's own."),
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="What the data's targets are for, where it has several: detection."),
]
MixableDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help=f"{', '.join(DTYPES)}, in place of the target's own; {MIXED}: each block in float32 or int8, the faster.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON and nothing else on stdout.")]

# Characters: of the widest table, and of a word that columns beside it make room for.
_WIDEST, _LONG_WORD = 100_000, 20
_FIGURES = (".png", ".svg", ".pdf")


def checked_figure(path: Path | None) -> Path | None:
    """Callback of a ``--figure`` option: what cannot be drawn is found out before anything is timed or sampled."""
    if path is not None and path.suffix.lower() not in _FIGURES:
        raise UserError(
            f"--figure {path}: a figure needs a name ending in {', '.join(_FIGURES[:-1])} or {_FIGURES[-1]}"
        )
    if path is not None:
        require("report")
    if path is not None and path.is_dir():
        raise UserError(f"--figure {path} is a folder; name a file in it")
    return path


def print_json(value: object) -> None:
    """Prints one JSON document on stdout."""
    print(json.dumps(value, indent=1, allow_nan=False))


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or re.fullmatch(r"[+-]?[0-9][0-9,.]*(e[+-]?[0-9]+)?%?", str(cell)) is not None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a plain table on stdout; numbers are right-aligned.

    On a terminal cells wrap between words, and a word that is longer than the terminal is wide (an arch) stays whole.
    Elsewhere nothing wraps.
    """
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate(columns):
        cells = [row[index] for row in rows]
        numeric = any(map(_is_number, cells)) and all(_is_number(cell) or cell in (None, "") for cell in cells)
        whole = any(len(word) > _LONG_WORD for cell in cells for word in str(cell).split())
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(
            *("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row)
        )
    limits = Measurement.get(Console(width=_WIDEST), Console(width=_WIDEST).options, table)
    terminal = Console()
    console = Console(width=max(terminal.width, limits.minimum) if terminal.is_terminal else limits.maximum)
    # Printed like everything else, so that a full disk or a closed pipe shows in the one way that main() knows.
    with console.capture() as printed:
        console.print(table)
    print(printed.get(), end="")
