"""``tvmfbnet tune``: tune and measure the blocks of a space on a target."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import MOST_SEED, SPACE_HELP, DtypeOption, JsonFlag, print_json
from tvmfbnet.cli.shares import parse_share

_MOST_SECONDS = 30 * 86_400.0
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class QualityChoice(StrEnum):
    """How much tuning a task gets: about 8, 24 or 96 trials."""

    quick = "quick"
    normal = "normal"
    best = "best"


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``90``, ``90s``, ``45min`` or ``2h``."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|)", text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if match and not seconds:
        raise typer.BadParameter(f"{text[:40]!r} is no time at all; leave the option out, or write 90s, 45min or 2h")
    if not 0 < seconds <= _MOST_SECONDS:
        raise typer.BadParameter(f"{text[:40]!r} is not a duration up to 30 days; write 90s, 45min or 2h")
    return seconds


def tune_command(
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    dtype: DtypeOption = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000_000, help="Trials in all, earlier runs included; each kernel gets a first round."
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time", parser=parse_duration, metavar="DURATION", help="Time budget for tuning: 45min, 2h."),
    ] = None,
    quality: Annotated[
        QualityChoice | None,
        typer.Option(
            help="Without --trials: 8, 24 or 96 trials per task (default: normal; of simulated targets quick)."
        ),
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="Spend it on top of what earlier runs spent.")] = False,
    blocks: Annotated[str, typer.Option(metavar="GLOB", help="Only these blocks, such as k3_*.")] = "*",
    arch: Annotated[str | None, typer.Option(help="Only the blocks (and the head) of this arch.")] = None,
    measure: Annotated[
        float,
        typer.Option(
            *("--measure", "--measure-share"),
            parser=parse_share,
            metavar="SHARE",
            help="Share of the blocks to time, 40% or 0.4: those that tell most about the others, which are predicted.",
        ),
    ] = 1.0,
    energy: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Also measure energies: auto, rapl, odpm, hwmon, battery, or command:... that prints joules.",
        ),
    ] = None,
    learn_from: Annotated[
        list[str] | None,
        typer.Option(
            "--learn-from",
            metavar="TARGET",
            help="Transfer from another target's trials (its folder in the tuning logs); repeatable.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Trials of a round; each kernel gets a first round of as many (default: 8, or 4 where that is over "
            "the budget).",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the choice of blocks and the search of schedules.")
    ] = 0,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Tune every kernel of a space on a target and time its blocks there; run again, it resumes.

    Example: tvmfbnet tune --target host --space fbnet_mini --quality quick
    """
    from tvmfbnet.api.tune import forecast_tuning, tune
    from tvmfbnet.latency.origin import NO_DEVICE, SIMULATED
    from tvmfbnet.pipeline.tuning_options import TuneOptions
    from tvmfbnet.targets.definition import load_target

    options = TuneOptions(
        trials=trials,
        **({} if quality is None else {"quality": quality.value}),
        **({} if batch is None else {"batch": batch}),
        measure_share=measure,
        seed=seed,
        seconds=time_limit,
        more=more,
        blocks=blocks,
        arch=arch,
        energy=energy,
        learn_from=tuple(learn_from or ()),
    )
    if dry_run:
        planned = forecast_tuning(space, target, options, dtype=dtype, tuning_logs=tuning_logs)
        if as_json:
            print_json(planned.to_dict())
        else:
            print(planned.describe())
        return
    done = tune(space, target, options, dtype=dtype, tuning_logs=tuning_logs)
    report, simulated = done.report, load_target(target).is_simulated
    if as_json:
        print_json(
            {
                "trials": report.trials,
                "new_trials": report.new_trials,
                "failures": report.failures,
                "device_faults": report.device_faults,
                "untuned": list(report.untuned),
                "tuning_seconds": round(report.seconds, 1),
                "profile_seconds": report.profile,
                "measured_now": done.timed,
                "parts": done.parts,
                **({"energies_now": done.energies, "energy_source": done.energy_source} if energy else {}),
                **({"source": SIMULATED} if simulated else {}),
            }
        )
        return
    print(f"{report.new_trials} new trials ({report.trials} in all), {done.timed} of {done.parts} parts timed now")
    if energy:
        print(f"energy of {done.energies} parts measured now, told by {done.energy_source}")
    if simulated:
        print(f"all latencies are {SIMULATED} ({NO_DEVICE})")
    if report.new_trials:
        spent = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in report.profile.items())
        print(f"tuning took {report.seconds:.0f} s ({report.new_trials / report.seconds:.1f} trials/s): {spent}")
    for kind, count in report.failures.items():
        print(f"{count} trial(s) failed: {kind}")
    for device, happenings in report.device_faults.items():
        told = ", ".join(f"{count} x {what}" for what, count in happenings.items())
        print(f"device {device}: {told}; what it was timing was timed again")
