"""Tuning and measuring a space on a target from start to end: what ``tvmfbnet tune`` calls. Resumable at any point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from tvmfbnet.autotune.database import open_database
from tvmfbnet.autotune.database_folders import TRIALS, folder_to_read, folder_to_write
from tvmfbnet.autotune.engine import tune
from tvmfbnet.autotune.engine_options import Budget, EngineOptions, TuningReport
from tvmfbnet.autotune.estimate import Rate, RunningEstimate, rate_of
from tvmfbnet.autotune.plan import Plan, make_plan
from tvmfbnet.autotune.transfer import read_sources
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.errors import StorageError
from tvmfbnet.files import make_folder
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.kernel_map import load_kernel_times, save_kernels
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.repository import journal_path, kernels_path, target_folder
from tvmfbnet.pipeline.tuning_options import Quality, TuneOptions
from tvmfbnet.profiling.active_sampling import blocks_to_measure, measure_share
from tvmfbnet.profiling.conversions import measure_conversions
from tvmfbnet.profiling.device_energy import require_source
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.part_energy import measure_part_energies
from tvmfbnet.profiling.parts import measure_parts
from tvmfbnet.progress import say, step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.provisioning.ready import require_ready
from tvmfbnet.rpc.device_context import ask_context, context_of
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.choice import choose_parts
from tvmfbnet.space.space import NetPart, Space
from tvmfbnet.targets.definition import Target, resolve

# Of a round, where a budget has no usual round for each kernel: most of the best candidates that are known at first.
_SMALL_BATCH = 4

T = TypeVar("T")
DEFAULT_OPTIONS = TuneOptions()
TRIALS_A_TASK: dict[Quality, int] = {"quick": 8, "normal": 24, "best": 96}


@dataclass(frozen=True)
class TuneResult:
    """The result of tuning and timing.

    Attributes:
        report: trials, failures and seconds of the tuning.
        timed: how many parts were timed in this call.
        parts: how many parts there are.
        energies: of how many the energy was measured in this call.
        energy_source: what told it; empty where it was not asked for.
    """

    report: TuningReport
    timed: int
    parts: int
    energies: int = 0
    energy_source: str = ""


@dataclass(frozen=True)
class TuningForecast:
    """The expected cost of a tuning run.

    Attributes:
        distinct_blocks: how many blocks there are.
        measured_blocks: how many of them are timed, those that were timed before included; the others are predicted.
        tuning_tasks: distinct kernels.
        trials: still to be done.
        estimated_seconds: of tuning and timing; rough until the first rounds are done.
        estimated_from: what that is known from.
        rate_is_measured: whether that is by this target's own rate.
        untouched: tasks that get no more than their first round.
        first_rounds: trials of the first rounds that are still due: each task gets one, whatever the budget is.
        asked: trials that the budget leaves; fewer than ``first_rounds`` where it is below what is done at least.
        batch: trials of a round.
    """

    distinct_blocks: int
    measured_blocks: int
    tuning_tasks: int
    trials: int
    estimated_seconds: int
    estimated_from: str
    rate_is_measured: bool
    untouched: int
    first_rounds: int
    asked: int
    batch: int

    def to_dict(self) -> dict[str, int | bool | str]:
        """Plain data."""
        return asdict(self)

    def describe(self) -> str:
        """For a person."""
        blocks = f"{self.distinct_blocks} distinct blocks"
        if self.measured_blocks < self.distinct_blocks:
            blocks += f" ({self.measured_blocks} of them to be timed)"
        lines = [
            f"{blocks}, {self.tuning_tasks} tuning tasks, {self.trials} trials to do",
            f"about {timedelta(seconds=self.estimated_seconds)} (estimated from {self.estimated_from})",
        ]
        if self.asked < self.first_rounds:
            lines.append(
                f"warning: the budget leaves {self.asked} trials, but up to {self.first_rounds} are done all the same: "
                f"a first round of {self.batch} for each kernel that was never tried, since it is slow without one; "
                "for fewer trials tune fewer kernels: name blocks with --blocks, or one arch with --arch"
            )
        elif self.untouched:
            lines.append(f"warning: the budget gives {self.untouched} task(s) no more than their first round")
        return "\n".join(lines)


def forecast(
    space: Space, target: Target, options: TuneOptions = DEFAULT_OPTIONS, root: Path | None = None
) -> TuningForecast:
    """Says what :func:`tune_space` with the same arguments will take; asks no device.

    Where this target has no rate of its own yet, some kernels are built here for some seconds to estimate one.
    """
    arch, space = _chosen_arch(options, space)
    if options.energy is not None:
        require_source(target, options.energy)
    read_sources(options.learn_from, target, root)  # refuses what tuning would refuse
    plan = plan_space(space, target, options.blocks, arch, target_folder(target.name, root), keeps=False)
    log = log_of(target, root)
    return _forecast(plan, log, rate_of(plan, log, probes=True), options)


def _forecast(plan: Plan, log: TrialLog, rate: Rate, options: TuneOptions) -> TuningForecast:
    left, share = _trials_left(plan, log, options), options.measure_share
    fresh = _never_tried(plan, log)
    batch = _round_size(options, left, fresh)
    needed = max(left, batch * fresh)  # every task gets its first round
    estimated = plan.estimated_seconds(needed, rate.trials_per_second, rate.slowness, share)
    estimated += _energy_seconds(plan, options)
    if options.seconds is not None:
        timing_seconds = plan.estimated_seconds(0, rate.trials_per_second, rate.slowness, share=share)
        estimated = min(estimated, options.seconds + timing_seconds + _energy_seconds(plan, options))
    return TuningForecast(
        distinct_blocks=plan.blocks,
        measured_blocks=blocks_to_measure(plan.blocks, share),
        tuning_tasks=len(plan.tasks),
        trials=needed,
        estimated_seconds=round(estimated),
        estimated_from=rate.source,
        rate_is_measured=rate.is_own,
        untouched=max(0, fresh - max(0, left - batch * fresh) // batch) if fresh else 0,
        first_rounds=batch * fresh,
        asked=left,
        batch=batch,
    )


def _energy_seconds(plan: Plan, options: TuneOptions) -> float:
    """Seconds of measuring the energy of every part and of an empty call, where that is asked for."""
    timing = plan.target.timing
    rounds = 0 if options.energy is None else timing.energy_rounds * (len(plan.parts) + 1)
    return 2 * timing.energy_seconds * rounds


def _chosen_arch(options: TuneOptions, space: Space) -> tuple[Arch | None, Space]:
    """The arch whose blocks alone are tuned, if there is one, and the space with its head."""
    return (None, space) if options.arch is None else resolve_arch(options.arch, space)


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
    return make_plan(space, resolve(target), choose_parts(space, blocks, arch), kept, keeps)


def default_trials(plan: Plan, quality: Quality = "normal") -> int:
    """The budget for a quality level: one, three or twelve rounds per task on average."""
    return TRIALS_A_TASK[quality] * len(plan.tasks)


def granted_trials(plan: Plan, options: TuneOptions) -> int:
    """The budget in trials, by number or by quality; of a simulated target, which is slow, ``quick`` if none is set."""
    if options.trials is not None:
        return options.trials
    is_default = "quality" not in options.model_fields_set
    return default_trials(plan, "quick" if is_default and plan.target.is_simulated else options.quality)


def _trials_left(plan: Plan, log: TrialLog, options: TuneOptions) -> int:
    granted = granted_trials(plan, options)
    return granted if options.more else max(0, granted - spent_on(plan, log))


def _round_size(options: TuneOptions, left: int, fresh: int) -> int:
    """Trials of a round: as many as asked for, or fewer than usual where the budget has no usual round for each kernel.

    Args:
        options: may say how many.
        left: trials that the budget leaves.
        fresh: kernels that were never tried, each of which gets a first round.
    """
    is_asked = "batch" in options.model_fields_set
    return options.batch if is_asked or left >= options.batch * fresh else min(_SMALL_BATCH, options.batch)


def _never_tried(plan: Plan, log: TrialLog) -> int:
    return sum(1 for task in plan.tasks if not log.spent[task.kernel.key])


def log_of(target: Target, root: Path | None = None) -> TrialLog:
    """The trials that a target has had so far in today's context, for those who ask no device; writes nothing."""
    folder = target_folder(target.name, root)
    try:
        database = folder_to_read(folder, context_of(resolve(target)))
    except StorageError as error:
        say(f"note: {error}")
        database = None
    return TrialLog(database / TRIALS if database is not None else None)


def spent_on(plan: Plan, log: TrialLog) -> int:
    """Trials that a plan's tasks have had so far, on GPUs those of today's templates."""
    log.count_only_templates(plan.gpu_templated)
    return log.trials_of(task.kernel for task in plan.tasks)


def _save_kernels(plan: Plan, log: TrialLog, context: Context, path: Path) -> None:
    """Stores which kernels the plan's parts have: without TVM nobody else can tell. The target's lock must be held."""
    if log.path is not None:
        kernels: dict[NetPart, Counter[str]] = {part: Counter() for part in plan.kernels}
        for part, used in plan.kernels.items():
            for kernel in used:
                kernels[part][kernel.key] += kernel.count
        save_kernels(path, context, log.path, kernels)


@contextmanager
def _alongside(context: AbstractContextManager[T]) -> Iterator[Callable[[], T]]:
    """Enters a context in a thread of its own; gives a function that waits for it and returns what it gives."""
    thread = ThreadPoolExecutor(1)
    entering, stopped = thread.submit(context.__enter__), False
    try:
        yield entering.result
    except KeyboardInterrupt:
        stopped = True
        raise
    finally:
        # After Ctrl-C, do not wait for a device that is still starting: it ends with this process.
        if not (stopped and not entering.done()) and entering.exception() is None:
            context.__exit__(None, None, None)
        thread.shutdown(wait=not stopped, cancel_futures=True)


def _say_plan(plan: Plan, log: TrialLog, options: TuneOptions) -> None:
    """The plan, before anything is spent; where the target has no rate yet, its first rounds will tell."""
    rate = rate_of(plan, log, probes=False)
    lines = _forecast(plan, log, rate, options).describe().split("\n")
    if not rate.is_own and options.seconds is None:
        lines[1] = "how long that takes is told after the first rounds: this target has no rate of its own yet"
    for line in lines:
        say(line)


def tune_space(
    space: Space, target: Target, options: TuneOptions = DEFAULT_OPTIONS, root: Path | None = None
) -> TuneResult:
    """Tunes every kernel that the chosen blocks need, then times a share of the blocks on the device.

    The blocks that are timed tell most about the others, which are left to the regressor.

    Args:
        space: the space.
        target: the target, as its file says.
        options: how much to spend, and on what.
        root: folder of all targets' logs.

    Raises:
        UserError: the toolchain, the device or the source of energy is not there, said before anything is lowered.
    """
    require_ready(target)
    energy_source = "" if options.energy is None else require_source(target, options.energy).name
    arch, space = _chosen_arch(options, space)
    sources = read_sources(options.learn_from, target, root)
    folder = make_folder(target_folder(target.name, root))
    with (
        target_lock(folder),
        _alongside(connect_device(resolve(target))) as connection,  # a device starts while the space is lowered
    ):
        plan = plan_space(space, target, options.blocks, arch, folder)
        with step("waiting for the device", patience=1.0):
            address = connection()
        context, endpoint = ask_context(plan.target, address)
        log = TrialLog(folder_to_write(folder, context) / TRIALS)
        _save_kernels(plan, log, context, kernels_path(target.name, root))
        _say_plan(plan, log, options)

        def remaining_seconds(left: int, rate: Rate) -> float:
            return plan.estimated_seconds(left, rate.trials_per_second, rate.slowness, options.measure_share)

        spent = spent_on(plan, log) if options.more else 0
        budget = Budget(granted_trials(plan, options) + spent, options.seconds)
        estimate = RunningEstimate(remaining_seconds, say) if options.seconds is None else None
        left = _trials_left(plan, log, options)
        seed, batch = options.seed, _round_size(options, left, _never_tried(plan, log))
        engine_options = EngineOptions(seed, batch, sources=sources, estimate=estimate)
        report = tune(plan, endpoint, folder, budget, engine_options, context)
        database, log = open_database(context, root), TrialLog(log.path)
        journal = Journal(journal_path(target.name, root))
        with device_timer(plan.target, endpoint) as timer:
            timed, parts = measure_share(
                space,
                {part: log.trials_of(kernels) for part, kernels in plan.kernels.items()},
                options.measure_share,
                journal,
                context,
                measure=lambda chosen: measure_parts(plan, chosen, timer, database, journal, log, seed, context),
                seed=seed,
                kernel_ms=load_kernel_times(kernels_path(target.name, root), context),
            )
            if target.data_type.is_quantised:  # few, quickly timed, and all that a net of mixed dtypes lacks
                measure_conversions(space, timer, journal, context)
            energies = 0
            if energy_source:
                trials = {part: log.trials_of(kernels) for part, kernels in plan.kernels.items()}
                told = (journal.path, context, energy_source)
                energies = measure_part_energies(plan.parts, trials, timer, database, *told)
    return TuneResult(report, timed, parts, energies, energy_source)
