"""``tvmfbnet bench``: a package's latency on the device, beside that of other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvmfbnet.cli.output import DtypeOption, JsonFlag, print_json, print_table
from tvmfbnet.cli.search import parse_latency
from tvmfbnet.cli.tune import parse_duration
from tvmfbnet.progress import loading

if TYPE_CHECKING:
    from tvmfbnet.deploy.bench import BenchResult
    from tvmfbnet.latency.verdict import Verdict


def bench_command(
    package: Annotated[Path, typer.Argument(help="A package: the --out folder of compile.")],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    dtype: DtypeOption = None,
    latency_target: Annotated[
        str | None,
        typer.Option(
            metavar="LATENCY",
            help="Say whether it meets this, such as 8ms (default: what it was made to meet); exit code 3 if not.",
        ),
    ] = None,
    sustained: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Then run without a pause for this long: 60s."),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Also time this runtime, in turn; repeatable (default: onnxruntime where it can run)."
        ),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Then measure energy: auto, rapl, odpm, hwmon, battery, or command:... that prints joules.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Time it although it failed the parity check.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time a package on the device, beside other runtimes.

    They take turns, with as many threads. Without --runtime it is ONNX Runtime, on this machine's own CPU. A runtime
    counts only if its output equals the package's.

    Phones throttle when warm: --sustained reports the sustained latency after running that long.

    Example: tvmfbnet bench runs/demo/package --target host --sustained 60s
    """
    from contextlib import suppress

    from tvmfbnet.advice import note
    from tvmfbnet.batches import split_batch
    from tvmfbnet.deploy.description import read_description, require_same_kind
    from tvmfbnet.deploy.runtimes.registry import rivals
    from tvmfbnet.dtypes import spelled_with_dtype, split_dtype
    from tvmfbnet.errors import UserError
    from tvmfbnet.provisioning.ready import require_ready
    from tvmfbnet.space.registry import load_space
    from tvmfbnet.targets.definition import load_target

    given_ms = parse_latency(latency_target) if latency_target is not None else None
    described = read_description(package)
    # A package is timed in its own dtype and batch, unless another is asked for, which is refused with both named.
    target = spelled_with_dtype(target, dtype or (described.dtype if split_dtype(target)[1] is None else None))
    loaded = load_target(target)
    if split_batch(target)[1] is None and loaded.batch != described.input_shape[0]:
        target = f"{target},batch={described.input_shape[0]}"
        loaded = load_target(target)
    note(target=target, named=loaded.name, package=package)
    require_same_kind(package, described, loaded)
    with suppress(UserError):  # the space may be of a file, whose place the package does not know
        note(space=load_space(described.space).name)
    chosen = None if runtime is None else tuple(runtime)
    rivals(chosen, loaded)
    require_ready(loaded)

    with loading():
        from tvmfbnet.deploy.package import Package

    opened = Package.load(package, loaded, force=force)
    told = opened.description
    target_ms = told.latency_target_ms if given_ms is None else given_ms
    result = opened.bench(
        latency_target_ms=target_ms, sustained_seconds=sustained or 0.0, runtimes=chosen, energy_source=energy
    )
    if as_json:
        print_json(
            {
                **{"arch": opened.arch, "parity": told.parity.verdict, "predicted_ms": told.predicted_ms},
                **{"dtype": told.dtype, "agreement": told.parity.agreement},
                **{"latency_target_ms": target_ms, **result.values},
            }
        )
    else:
        batch = "" if loaded.batch == 1 else f", {loaded.batch} images a call"
        print(f"{opened.arch}, {told.dtype}{batch}, {loaded.threads} thread(s)")
        if agreement := told.parity.describe_agreement():
            print(agreement)
        print_table("", *bench_table(result, target_ms, told.predicted_ms, told.on_simulated))
        if result.energy is not None:
            print(f"energy: {result.energy.describe()}")
            if told.predicted_energy is not None:
                print(f"energy by the latency table when it was compiled: {told.predicted_energy.describe()}")
    end_with_verdict(result.verdict, as_json)


def bench_table(
    result: BenchResult, target_ms: float | None, predicted_ms: float | None, simulated: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, str, str]]]:
    """Table heads and rows of the timed runtimes, beside the target and the prediction; every ratio names its base."""
    from tvmfbnet.latency.origin import NO_DEVICE, SIMULATED
    from tvmfbnet.latency.units import unit_for
    from tvmfbnet.latency.verdict import CONFIDENCE

    timed_ms, interval, source = result.latency_ms, result.net.interval, result.net.source
    warm_ms, others = result.sustained_ms, result.runtimes[1:]
    unit = unit_for((target_ms, predicted_ms, timed_ms, warm_ms, *(other.latency_ms for other in others)))
    rows = [] if target_ms is None else [("latency target", unit.number(target_ms), "")]
    if predicted_ms is not None:
        off = f"{predicted_ms / timed_ms - 1:+.1%} against the {source} latency"
        word = "simulated" if simulated else "predicted"
        rows.append((f"{word} when it was compiled", unit.number(predicted_ms), off))
    bounds = f"{unit.number(interval.low)} to {unit.number(interval.high)}"
    note = f"{bounds}: {CONFIDENCE:.0%} interval over {interval.passes} passes"
    if source == SIMULATED:
        rows.append(("simulated", unit.number(timed_ms), f"{result.values['device'].get('model', '')}: {NO_DEVICE}"))
    else:
        rows.append(("measured", unit.number(timed_ms), note))
    if warm_ms is not None:
        name = f"measured after {result.values['sustained_seconds']:g} s without a pause"
        rows.append((name, unit.number(warm_ms), f"{warm_ms / timed_ms:.2f} of the measured latency"))
    for other in others:
        note = f"the package takes {timed_ms / other.latency_ms:.2f} of its time"
        rows.append((f"{other.title}, as many threads", unit.number(other.latency_ms), note))
    return ("latency", unit.name, "note"), rows


def end_with_verdict(verdict: Verdict | None, as_json: bool) -> None:
    """Prints a verdict and its advice, and ends the command with its exit code; does nothing without one."""
    if verdict is None:
        return
    if not as_json:
        print(verdict.describe())
        if verdict.advice():
            print(f"advice: {verdict.advice()}")
    raise typer.Exit(verdict.exit_code)
