"""Tuning and measuring a space on a target from start to end: what ``tvmfbnet tune`` calls. Resumable at any point."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.devices.local import reach
from tvmfbnet.devices.target import Target, resolve_native
from tvmfbnet.files import make_folder
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.store import journal_path, target_folder
from tvmfbnet.space.space import BLOCK, NetPart, Space
from tvmfbnet.tuning.engine import BATCH, TuningReport, database_folder, tune
from tvmfbnet.tuning.measure import device_timer, measure_parts
from tvmfbnet.tuning.metaschedule import TuningDatabase
from tvmfbnet.tuning.plan import Plan, choose_parts, make_plan
from tvmfbnet.tuning.trials import TrialLog


@dataclass(frozen=True)
class TuneOutcome:
    """What was done: the tuning report, how many parts were timed now and how many parts there are to time."""

    report: TuningReport
    timed: int
    parts: int


def plan_space(space: Space, target: Target, blocks: str = "*") -> Plan:
    """The plan alone: nothing is built, no device is asked."""
    return make_plan(space, resolve_native(target), choose_parts(space, blocks))


def default_trials(plan: Plan) -> int:
    """A budget that gives every task two rounds on average."""
    return 16 * len(plan.tasks)


def parts_to_measure(plan: Plan, share: float, seed: int) -> tuple[NetPart, ...]:
    """Stem, head and a random ``share`` of the blocks; the same ones for the same seed."""
    blocks = [part for part in plan.parts if part.part == BLOCK]
    count = max(1, math.ceil(share * len(blocks)))
    chosen = set(random.Random(seed).sample(blocks, count)) if count < len(blocks) else set(blocks)
    return tuple(part for part in plan.parts if part.part != BLOCK or part in chosen)


def tune_space(
    space: Space,
    target: Target,
    root: Path | None = None,
    trials: int | None = None,
    blocks: str = "*",
    measure_share: float = 1.0,
    seed: int = 0,
    batch: int = BATCH,
) -> TuneOutcome:
    """Tunes every kernel that the chosen blocks need, then times ``measure_share`` of the blocks on the device.

    Args:
        space: the space.
        target: the target, as its file says.
        root: folder of all targets' logs.
        trials: budget in trials, those of earlier runs included; default 16 a task.
        blocks: glob on block names.
        measure_share: share of the distinct blocks to time, 0 to 1; the others are left to the regressor.
        seed: of the choice of blocks and the search of schedules.
        batch: candidates a round.
    """
    folder = make_folder(target_folder(target.name, root))
    plan = plan_space(space, target, blocks)
    budget = default_trials(plan) if trials is None else trials
    with reach(plan.target) as endpoint:
        report = tune(plan, endpoint, folder, budget, seed, batch)
        database = TuningDatabase(database_folder(folder), repair=True)
        log = TrialLog(database.folder / "trials.jsonl")
        parts = parts_to_measure(plan, measure_share, seed)
        with device_timer(plan.target, endpoint) as timer:
            timed = measure_parts(plan, parts, timer, database, Journal(journal_path(target.name, root)), log)
    return TuneOutcome(report, timed, len(parts))
