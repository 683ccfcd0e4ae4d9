"""Tuning and measuring a space on a target from start to end: what ``tvmfbnet tune`` calls. Resumable at any point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

from tvmfbnet.devices.local import reach
from tvmfbnet.devices.ready import require_ready
from tvmfbnet.devices.target import Target, resolve_native
from tvmfbnet.errors import StorageError
from tvmfbnet.files import make_folder
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.kernels import remember
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.store import journal_path, kernels_path, target_folder
from tvmfbnet.progress import say
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.choice import choose_parts
from tvmfbnet.space.space import Space
from tvmfbnet.tuning.context import ask_context, context_of
from tvmfbnet.tuning.database import open_database
from tvmfbnet.tuning.engine import BATCH, Budget, TuningReport, tune
from tvmfbnet.tuning.folders import TRIALS, folder_to_read, folder_to_write
from tvmfbnet.tuning.lessons import Lesson
from tvmfbnet.tuning.measure import measure_parts
from tvmfbnet.tuning.plan import Plan, make_plan
from tvmfbnet.tuning.share import blocks_to_measure, measure_share
from tvmfbnet.tuning.timer import device_timer
from tvmfbnet.tuning.trials import TrialLog

Quality = Literal["quick", "normal", "best"]
T = TypeVar("T")
TRIALS_A_TASK: dict[Quality, int] = {"quick": 8, "normal": 24, "best": 96}


@dataclass(frozen=True)
class TuneOutcome:
    """What was done: the tuning report, how many parts were timed now and how many parts there are to time."""

    report: TuningReport
    timed: int
    parts: int


@dataclass(frozen=True)
class Forecast:
    """What a tuning run will take.

    Attributes:
        distinct_blocks: how many blocks there are.
        measured_blocks: how many of them are timed, those that were timed before included; the others are predicted.
        tuning_tasks: distinct kernels.
        trials: still to be done.
        estimated_seconds: of tuning and timing.
        rate_is_measured: whether that is by this target's own rate.
        untouched: tasks that get no more than their first round.
    """

    distinct_blocks: int
    measured_blocks: int
    tuning_tasks: int
    trials: int
    estimated_seconds: int
    rate_is_measured: bool
    untouched: int

    def to_dict(self) -> dict[str, int | bool]:
        """Plain data."""
        return asdict(self)

    def describe(self) -> str:
        """For a person."""
        rate = "by this target's own rate" if self.rate_is_measured else "by a two-core host's rate"
        blocks = f"{self.distinct_blocks} distinct blocks"
        if self.measured_blocks < self.distinct_blocks:
            blocks += f" ({self.measured_blocks} of them to be timed)"
        lines = [
            f"{blocks}, {self.tuning_tasks} tuning tasks, {self.trials} trials to do",
            f"about {timedelta(seconds=self.estimated_seconds)} ({rate})",
        ]
        if self.untouched:
            lines.append(f"warning: the budget gives {self.untouched} task(s) no more than their first round")
        return "\n".join(lines)


def forecast(
    space: Space,
    target: Target,
    root: Path | None = None,
    trials: int | None = None,
    blocks: str = "*",
    quality: Quality = "normal",
    seconds: float | None = None,
    more: bool = False,
    arch: Arch | None = None,
    share: float = 1.0,
) -> Forecast:
    """Says what :func:`tune_space` with the same arguments will take; builds nothing and asks no device."""
    plan, log = (
        plan_space(space, target, blocks, arch, target_folder(target.name, root), keeps=False),
        log_of(target, root),
    )
    spent, rate = spent_on(plan, log), log.trials_per_second()
    granted = default_trials(plan, quality) if trials is None else trials
    left = granted if more else max(0, granted - spent)
    fresh = sum(1 for task in plan.tasks if not log.spent[task.kernel.key])
    needed = max(left, BATCH * fresh)  # every task gets its first round
    estimated = plan.estimated_seconds(needed, rate, share)
    if seconds is not None:
        estimated = min(estimated, seconds + plan.estimated_seconds(0, share=share))
    untouched = max(0, fresh - max(0, left - BATCH * fresh) // BATCH) if fresh else 0
    timed = blocks_to_measure(plan.blocks, share)
    return Forecast(plan.blocks, timed, len(plan.tasks), needed, round(estimated), rate is not None, untouched)


def plan_space(
    space: Space,
    target: Target,
    blocks: str = "*",
    arch: Arch | None = None,
    folder: Path | None = None,
    keeps: bool = True,
) -> Plan:
    """The plan alone: nothing is built, no device is asked.

    Args:
        space: the space.
        target: the target, as its file says.
        blocks: glob on block names.
        arch: only the blocks of this arch.
        folder: the target's folder, where lowered parts are kept; None keeps none.
        keeps: whether parts that are lowered now are added there.
    """
    kept = None if folder is None else folder / "lowered"
    return make_plan(space, resolve_native(target), choose_parts(space, blocks, arch), kept, keeps)


def default_trials(plan: Plan, quality: Quality = "normal") -> int:
    """A budget by how good the kernels shall be: one, three or twelve rounds a task on average."""
    return TRIALS_A_TASK[quality] * len(plan.tasks)


def log_of(target: Target, root: Path | None = None) -> TrialLog:
    """The trials that a target has had so far in today's context, for those who ask no device; writes nothing."""
    folder = target_folder(target.name, root)
    try:
        found = folder_to_read(folder, context_of(resolve_native(target)))
    except StorageError as error:
        say(f"note: {error}")
        found = None
    return TrialLog(found / TRIALS if found is not None else None)


def spent_on(plan: Plan, log: TrialLog) -> int:
    """Trials that a plan's tasks have had so far."""
    return log.trials_of(task.kernel for task in plan.tasks)


@contextmanager
def _alongside(context: AbstractContextManager[T]) -> Iterator[Callable[[], T]]:
    """Enters a context in a thread of its own; gives a function that waits for it and returns what it gives."""
    with ThreadPoolExecutor(1) as thread:
        entering = thread.submit(context.__enter__)
        try:
            yield entering.result
        finally:
            if entering.exception() is None:
                context.__exit__(None, None, None)


def tune_space(
    space: Space,
    target: Target,
    root: Path | None = None,
    trials: int | None = None,
    blocks: str = "*",
    share: float = 1.0,
    seed: int = 0,
    batch: int = BATCH,
    quality: Quality = "normal",
    seconds: float | None = None,
    more: bool = False,
    arch: Arch | None = None,
    lessons: Sequence[Lesson] = (),
) -> TuneOutcome:
    """Tunes every kernel that the chosen blocks need, then times a ``share`` of the blocks on the device.

    Args:
        space: the space.
        target: the target, as its file says.
        root: folder of all targets' logs.
        trials: budget in trials, those of earlier runs included; default by ``quality``.
        blocks: glob on block names.
        share: of the distinct blocks to time, 0 to 1: those that tell most about the others, which are left to the
            regressor. What was timed before counts in.
        seed: of the choice of blocks and the search of schedules.
        batch: candidates a round.
        quality: how much to spend where ``trials`` does not say.
        seconds: stop tuning after so long, whatever is left of the trials; every task still gets its first round.
        more: spend the budget on top of what earlier runs spent, instead of up to it.
        arch: only the blocks of this arch.
        lessons: trials of other targets to learn from (see :func:`tvmfbnet.tuning.lessons.read_lessons`).

    Raises:
        UserError: the toolchain or the device is not there, said before anything is lowered.
    """
    require_ready(target)
    folder = make_folder(target_folder(target.name, root))
    with (
        target_lock(folder),
        _alongside(reach(resolve_native(target))) as reached,  # a device starts while the space is lowered
    ):
        plan = plan_space(space, target, blocks, arch, folder)
        context, endpoint = ask_context(plan.target, reached())
        granted = default_trials(plan, quality) if trials is None else trials
        log = TrialLog(folder_to_write(folder, context) / TRIALS)
        budget = Budget(granted + (spent_on(plan, log) if more else 0), seconds)
        report = tune(plan, endpoint, folder, budget, seed, batch, lessons=lessons, context=context)
        database, log = open_database(context, root), TrialLog(log.path)
        journal = Journal(journal_path(target.name, root))
        kernel_ms = {part: ms for part, some in plan.kernels.items() if (ms := log.kernels_ms(some)) is not None}
        remember(kernels_path(target.name, root), context, kernel_ms)
        with device_timer(plan.target, endpoint) as timer:
            timed, parts = measure_share(
                space,
                {part: log.trials_of(kernels) for part, kernels in plan.kernels.items()},
                share,
                journal,
                context,
                measure=lambda chosen: measure_parts(plan, chosen, timer, database, journal, log, seed, context),
                seed=seed,
                kernel_ms=kernel_ms,
            )
    return TuneOutcome(report, timed, parts)
