"""``tvmfbnet tune``: tune and measure the blocks of a space on a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json


def tune_command(
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    space: Annotated[str, typer.Option(help="Search space: a shipped name or a .yaml file.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all, earlier runs included; 16 a task.")] = None,
    blocks: Annotated[str, typer.Option(metavar="GLOB", help="Only these blocks, such as k3_*.")] = "*",
    measure_share: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of blocks to time.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the choice of blocks and the search of schedules.")] = 0,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and stop.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Tune every kernel of a space on a target and time its blocks there; goes on where it was stopped.

    Example: tvmfbnet tune --target host --space fbnet_mini --trials 1000
    """
    from tvmfbnet.devices.target import load_target
    from tvmfbnet.space.registry import load_space

    loaded_target, loaded_space = load_target(target), load_space(space)

    from tvmfbnet.tuning.run import default_trials, plan_space, tune_space

    if dry_run:
        plan = plan_space(loaded_space, loaded_target, blocks)
        budget = default_trials(plan) if trials is None else trials
        seconds = round(plan.estimated_seconds(budget))
        if as_json:
            counts = {"distinct_blocks": plan.blocks, "tuning_tasks": len(plan.tasks)}
            print_json({**counts, "trials": budget, "estimated_seconds": seconds})
        else:
            print(f"{plan.blocks} distinct blocks, {len(plan.tasks)} tuning tasks, {budget} trials, about {seconds} s")
        return
    done = tune_space(loaded_space, loaded_target, tuning_logs, trials, blocks, measure_share, seed)
    report = done.report
    if as_json:
        print_json(
            {
                "trials": report.trials,
                "new_trials": report.new_trials,
                "failures": report.failures,
                "untuned": list(report.untuned),
                "tuning_seconds": round(report.seconds, 1),
                "measured_now": done.timed,
                "parts": done.parts,
            }
        )
    else:
        print(f"{report.new_trials} new trials ({report.trials} in all), {done.timed} of {done.parts} parts timed now")
