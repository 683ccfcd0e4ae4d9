"""``tvmfbnet report cross-device``: nets of several runs, each timed on the devices of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table
from tvmfbnet.cli.tables import LogsOption
from tvmfbnet.progress import loading

if TYPE_CHECKING:
    from tvmfbnet.latency.cross_device import CrossDevice
    from tvmfbnet.latency.side_by_side import SideBySide
    from tvmfbnet.pipeline.cross_device import CrossTimings, PlannedTiming
    from tvmfbnet.pipeline.finished_runs import FinishedRun


def cross_device_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs for different targets, two or more.")],
    out: Annotated[Path, typer.Option(help="Folder of the timings and of the page.")] = Path("runs/cross-device"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be timed and how long, and stop.")] = False,
    tuning_logs: LogsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Time the nets of several runs on each other's devices: is each the best at home?

    Every net is compiled for every run's target with the schedules tuned there, checked against PyTorch, and timed in
    turn with the others. A net is the best at home if every foreign net is slower there and not more accurate, or
    misses the latency target; undecided if the intervals of two latencies overlap.

    Finished timings are kept in --out and not repeated; run again, it resumes. Writes a page with the table, the
    verdicts and figures.

    Example: tvmfbnet report cross-device runs/pixel8 runs/rpi4 --out runs/cross-device
    """
    from tvmfbnet import interrupts
    from tvmfbnet.advice import note
    from tvmfbnet.extras import require

    require("report")
    require("tune")
    interrupts.promise_resume()
    note(tuning_logs=tuning_logs)
    from tvmfbnet.pipeline.finished_runs import read_finished_runs

    finished = read_finished_runs(runs)
    with loading():
        from tvmfbnet.pipeline.cross_device import CrossTimings

    timings = CrossTimings(finished, out, tuning_logs)
    if dry_run:
        _print_plan(timings.plan(), as_json)
        return
    plan = timings.time_due()
    compared, operators = timings.compared(plan), _operators(finished, timings.names)
    page, values = _write(timings, plan, compared, operators)
    if as_json:
        print_json({**values, "page": str(page), "figures": sorted(str(path) for path in out.glob("*.png"))})
        return
    _print_compared(compared, operators)
    print(f"report: {page}")


def _write(
    timings: CrossTimings, plan: Sequence[PlannedTiming], compared: CrossDevice, operators: SideBySide | None
) -> tuple[Path, dict[str, Any]]:
    """Writes the page and ``cross_device.json``."""
    from tvmfbnet.files import write_json
    from tvmfbnet.pipeline.cross_device import values_of
    from tvmfbnet.report.cross_device import write_cross_device

    records = {(timing.net, timing.device): timing.record for timing in plan if timing.record is not None}
    values = values_of(compared, records)
    shared = None
    if operators is not None:
        shared = {"n": len(operators.parts), "names": operators.names, "spearman": operators.spearman}
    values["operators"] = shared
    drawn = {name: (run.arch, run.space) for name, run in zip(timings.names, timings.runs, strict=True)}
    page = write_cross_device(compared, drawn, operators, timings.out)
    write_json(timings.out / "cross_device.json", values)
    return page, values


def _operators(finished: Sequence[FinishedRun], names: Sequence[str]) -> SideBySide | None:
    """The runs' latency tables side by side; None where they share too few parts."""
    from dataclasses import replace

    from tvmfbnet.errors import LatencyError
    from tvmfbnet.latency.side_by_side import side_by_side
    from tvmfbnet.progress import say

    try:
        return side_by_side([(name, replace(run.table, name=name)) for name, run in zip(names, finished, strict=True)])
    except LatencyError as error:
        say(f"note: operators are not compared: {error}")
        return None


def _print_plan(plan: Sequence[PlannedTiming], as_json: bool) -> None:
    """What would be timed, and about how long it takes."""
    from tvmfbnet.durations import spell_seconds

    due = [timing for timing in plan if timing.record is None]
    seconds = [timing.estimated_seconds for timing in due]
    total = None if None in seconds else sum(value for value in seconds if value is not None)
    if as_json:
        print_json({"timings": [timing.to_dict() for timing in plan], "due": len(due), "estimated_seconds": total})
        return
    rows = []
    for timing in plan:
        cost = "unknown" if timing.estimated_seconds is None else spell_seconds(timing.estimated_seconds)
        rows.append((timing.net, timing.device, "done" if timing.record is not None else f"due, {cost}"))
    print_table("", ("net found for", "on", "timing"), rows)
    cost = "unknown" if total is None else f"about {spell_seconds(total)}" if due else "nothing"
    print(
        f"{len(due)} of {len(plan)} timings are due: {cost}, by what the runs took to compile and time their own nets"
    )


def _print_compared(compared: CrossDevice, operators: SideBySide | None) -> None:
    """The table of nets and devices, the verdicts, and how alike the devices rank blocks."""
    from tvmfbnet.report.cross_device import unit_of

    unit = unit_of(compared)
    words = {verdict.device: verdict.word for verdict in compared.verdicts()}
    rows = []
    for net in compared.nets:
        cells = [net.home, f"{net.params / 1e6:.2f}M", f"{net.macs / 1e6:.1f}M", f"{net.accuracy:.2%}"]
        for device in compared.devices:
            interval = compared.timings[net.home, device.name].interval
            bounds = f" ({unit.number(interval.low, 3)} to {unit.number(interval.high, 3)})"
            cells.append(unit.number(interval.value) + (bounds if interval.high > interval.low else ""))
        rows.append((*cells, words[net.home]))
    columns = ("found for", "parameters", "MACs", "top-1")
    devices = (f"on {device.label}, {unit.name}" for device in compared.devices)
    print_table("", (*columns, *devices, "best at home"), rows)
    for verdict in compared.verdicts():
        print(verdict.describe())
    for net in compared.nets:
        print(f"net for {net.home}: {net.arch}")
    if operators is not None:
        ranks = [
            f"{operators.labels[one]} and {operators.labels[other]} {operators.spearman[one][other]:.3f}"
            for one in range(len(operators.names))
            for other in range(one)
        ]
        print(f"rank correlation of {len(operators.parts)} shared parts: {', '.join(ranks)}")
    for device in compared.devices:
        if device.basis != "measured":
            print(f"{device.name} is simulated by a model; no device took its latencies")
