"""``tvmfbnet latency``: the latency table of a target: show it, take it out, bring one in, compare two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.latency_compare import compare
from tvmfbnet.cli.latency_model import fit, validate
from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, MixableDtypeOption, print_json, print_table
from tvmfbnet.cli.tables import DeviceModelOption, LogsOption, space_table, stored_table

if TYPE_CHECKING:
    from tvmfbnet.latency.table import LatencyTable
    from tvmfbnet.space.space import Space

app = typer.Typer(
    help="Latency tables: show, compare, export, import; fit the regressor; validate sums against nets.",
    no_args_is_help=True,
)

TargetOption = Annotated[
    str,
    typer.Option(
        help="A target's name or .yaml file, an imported table's name, a table's file, or simulated:gflops=16,gbps=8."
    ),
]


@app.command()
def show(
    target: TargetOption,
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    dtype: MixableDtypeOption = None,
    measured_only: Annotated[bool, typer.Option("--measured-only", help="Leave out what would be predicted.")] = False,
    device_model: DeviceModelOption = None,
    tuning_logs: LogsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what each part of a space costs: measured, predicted or simulated.

    Example: tvmfbnet latency show --target host --space fbnet_mini
    """
    from tvmfbnet.dtypes import spelled_with_dtype, without_mixed
    from tvmfbnet.latency.cells import SOURCES
    from tvmfbnet.latency.measurement import OVERHEAD_PART
    from tvmfbnet.latency.sources.source import Missing
    from tvmfbnet.latency.units import unit_for
    from tvmfbnet.space.registry import load_space
    from tvmfbnet.targets.definition import measured_name

    target, shown = spelled_with_dtype(target, dtype), load_space(space)
    wanted = Missing.LEAVE if measured_only else Missing.PREDICT_IF_POSSIBLE
    # The cells as they are: a correction belongs to sums of cells.
    table = space_table(shown, target, None, tuning_logs, device_model, named=space, missing=wanted, correct=False)
    target = measured_name(without_mixed(target))
    parts = shown.distinct_parts()
    missing = table.missing(parts)
    cells = table.to_records([part for part in parts if part not in missing])
    counts: dict[str, int] = {source: sum(cell["source"] == source for cell in cells) for source in SOURCES}
    fastest_ms, slowest_ms = (None, None) if missing else table.range_ms(shown)
    if as_json:
        print_json(
            {
                "target": target,
                "dtype": table.dtype_name,
                "batch": table.batch,
                "space": shown.name,
                "context": table.context.to_dict() if table.context is not None else None,
                "overhead_ms": table.overhead_ms,
                **({"call_energy": table.energies.record(OVERHEAD_PART)} if table.energies else {}),
                "fastest_ms": fastest_ms,
                "slowest_ms": slowest_ms,
                "cells": cells,
                **counts,
                "missing": [part.name for part in missing],
                "drift": _drift(cells),
            }
        )
        return
    unit = unit_for(cell["latency_ms"] for cell in cells)
    columns = ["part", f"latency, {unit.name}", f"spread, {unit.name}", "source", "tuning trials"]
    rows = [
        [
            *(cell["name"], unit.number(cell["latency_ms"]), unit.number(cell["spread_ms"], 2)),
            *(cell["source"], cell["trials"] or None),
        ]
        for cell in cells
    ]
    if table.energies:
        columns += ["energy, mJ", "spread, mJ"]
        for row, cell in zip(rows, cells, strict=True):
            row += [_millijoules(cell["energy_mj"]), _millijoules(cell["energy_spread_mj"])]
    if not all(cell["steady"] for cell in cells):  # elsewhere drift says nothing about a cell
        columns.append("drift, %")
        for row, cell in zip(rows, cells, strict=True):
            row.append("" if cell["steady"] else _percent(cell["canary_ratio"]))
    batch = "" if table.batch == 1 else f", {table.batch} images a call"
    print_table(f"{target}: {shown.name}, {table.dtype_name}{batch}", columns, rows)
    print(
        f"{counts[table.basis]} {table.basis}, {counts['predicted']} predicted, {len(missing)} missing; "
        f"call overhead {unit.text(table.overhead_ms)}"
    )
    if fastest_ms is not None and slowest_ms is not None:
        whole = unit_for((fastest_ms, slowest_ms))
        print(f"nets of the space: {whole.text(fastest_ms)} (fastest) to {whole.text(slowest_ms)} (slowest)")
    if table.energies:
        call = _millijoules(table.energies.call[0])
        print(
            f"energies are above idle, told by {table.energies.source or 'an unnamed source'}; a call takes {call} mJ"
        )
    _print_drift(_drift(cells))


@app.command()
def export(
    target: TargetOption,
    out: Annotated[Path, typer.Option(help="The .csv, .parquet or .json file to write.")],
    space: Annotated[
        str | None, typer.Option(help="Write exactly the parts of this space, predicting what was not measured.")
    ] = None,
    dtype: MixableDtypeOption = None,
    device_model: DeviceModelOption = None,
    tuning_logs: LogsOption = None,
) -> None:
    """Write a latency table as CSV, Parquet or JSON. Example: tvmfbnet latency export --target host --out host.csv."""
    from tvmfbnet.dtypes import spelled_with_dtype
    from tvmfbnet.latency.table_io import write_table
    from tvmfbnet.latency.table_rows import form_of
    from tvmfbnet.preflight import require_writable_file
    from tvmfbnet.progress import say
    from tvmfbnet.space.registry import load_space

    target = spelled_with_dtype(target, dtype)
    form_of(out)  # a wrong ending is found out before anything is read or predicted
    require_writable_file(out)
    if space is None:
        table = stored_table(target, tuning_logs, device_model)
    else:
        table = _exactly(load_space(space), target, tuning_logs, device_model, space)
    write_table(table, out)
    say(f"wrote {len(table.cells)} cells to {out}")


@app.command("import")
def import_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .csv, .parquet or .json file; columns part,block,cin,cout,height,width,stride,latency_ms.",
        ),
    ],
    target: Annotated[str, typer.Option(help="Name to keep the table under.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace a table of that name.")] = False,
    tuning_logs: LogsOption = None,
) -> None:
    """Bring in a latency table that was measured elsewhere.

    Example: tvmfbnet latency import pixel3.csv --target pixel3
    """
    import dataclasses

    from tvmfbnet.batches import named_batch
    from tvmfbnet.dtypes import split_dtype
    from tvmfbnet.errors import UserError
    from tvmfbnet.latency.repository import journal_path, table_path
    from tvmfbnet.latency.table_io import read_table, require_batch, require_stated_dtype, write_table
    from tvmfbnet.preflight import require_writable_file
    from tvmfbnet.progress import say
    from tvmfbnet.targets.definition import measured_name

    _, dtype = split_dtype(target)
    target = measured_name(target)
    destination = table_path(target, tuning_logs)
    if journal_path(target, tuning_logs).exists():
        raise UserError(
            f"target {target} has measurements of its own, which go before a table; import under another name"
        )
    if destination.exists() and not replace:
        raise UserError(f"{destination} exists already; give --replace to put the new table in its place")
    require_writable_file(destination)
    table = read_table(file)
    require_batch(table, named_batch(target)[1], str(file))
    if dtype is not None:
        require_stated_dtype(table, dtype, str(file))
        table = dataclasses.replace(table, stated_dtype=dtype)
    write_table(table, destination)
    say(f"imported {len(table.cells)} cells as target {target} ({destination})")


def _exactly(space: Space, target: str, logs: Path | None, device_model: str | None, named: str) -> LatencyTable:
    """A table with exactly the parts of a space, plain: a correction belongs to sums of cells."""
    from dataclasses import replace

    table = space_table(space, target, None, logs, device_model, named=named, correct=False)
    wanted = dict.fromkeys([*space.fixed_parts(), *(item.cell(name) for item in space.layers for name in item.blocks)])
    return replace(table, cells={part: table.cells[part] for part in wanted if part in table.cells})


app.command()(compare)
app.command()(fit)
app.command()(validate)


def _drift(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The device's speed while cells were timed, as ratios of the canary's latency to its reference; None if unknown.

    ``unsteady`` counts the cells during which it kept changing by more than the target's limit.
    """
    ratios = [cell["canary_ratio"] for cell in cells if cell["canary_ratio"] is not None]
    unsteady = sum(not cell["steady"] for cell in cells)
    return {"lowest": min(ratios, default=None), "highest": max(ratios, default=None), "unsteady": unsteady}


def _millijoules(energy: float | None) -> str:
    return "" if energy is None else f"{energy:.3g}"


def _percent(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{100 * (ratio - 1):+.1f}"


def _print_drift(drift: Mapping[str, Any]) -> None:
    """Reports drift and its effect on the latencies once; silent if unknown."""
    if drift["lowest"] is not None:
        low, high = _percent(drift["lowest"]), _percent(drift["highest"])
        print(
            f"drift of the device while it timed these: {low} to {high} %, by a small kernel that is always the same "
            "(+ is slower than it was at first, - faster); latencies are as measured, not corrected for it"
        )
    if drift["unsteady"]:
        print(
            f"{drift['unsteady']} part(s), those with a drift in the table, were timed while the device kept changing "
            "its speed by more than the target's timing.drift_limit: trust them less"
        )
