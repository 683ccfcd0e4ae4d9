"""What `tune --learn-from` is worth: a target tuned with few trials, with and without the trials of another one.

    python benchmarks/learn_from.py --out DIR [--space fbnet] [--blocks 'block/k3_e6/*'] [--seeds 2] [--rounds 1 2]

The other target is this host limited to older instructions (`--other-cpu x86-64-v3`: AVX2, half as many registers of
half the width as AVX-512), tuned on the same blocks first unless `--out` holds its log already (as `other`). Then the
real host is tuned from nothing with 8 trials per task and round, on both sides in turn, each seed in its own folder.
Each side's best kernels after some rounds are rebuilt and timed in turn, task by task, all seeds together. Prints
the geometric mean over tasks of time with / time without, each task weighted by the cells it serves, for each seed, and
how far either is from the fastest kernel that any of them found. Resumable: rerun the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import report_figure

from tvmfbnet.autotune.builder_pool import BuilderPool, Built
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.engine import tune
from tvmfbnet.autotune.engine_options import BATCH, Budget, EngineOptions
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.plan import Plan, TuningTask
from tvmfbnet.autotune.templates import apply_knobs, shape_of
from tvmfbnet.autotune.transfer import read_sources
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.machine import allowed_cores
from tvmfbnet.pipeline.tuning import plan_space
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import KernelJob, Repeats, time_kernels
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import Target, load_target

SIDES = ("without", "with")
# The best knobs of each task, by side, seed and rounds.
Best = dict[tuple[str, int, int], dict[str, Knobs]]


def other_target(host: Target, cpu: str, folder: Path) -> Path:
    """A target file for this host limited to ``cpu``'s instructions."""
    path = folder / "other.yaml"
    path.write_text(
        f"name: other\ndescription: this host as {cpu}\nexercised: false\n"
        f"tvm: {{kind: llvm, mcpu: {cpu}, num-cores: {host.threads}}}\ntransport: {{kind: local, key: other}}\n"
        f"timing: {{trial_repeats: {host.timing.trial_repeats}, trial_min_ms: {host.timing.trial_min_ms}}}\n"
    )
    return path


def tune_sides(plan: Plan, other: Path, options: argparse.Namespace) -> Best:
    """The best knobs of each task, by side, seed and rounds."""
    best = {}
    sources = read_sources([str(other)], plan.target, options.out)
    for seed in range(options.seeds):
        for rounds in sorted(options.rounds):
            for side in SIDES if (seed + rounds) % 2 else SIDES[::-1]:
                folder = options.out / f"{side}{seed}"
                with connect_device(plan.target) as endpoint:
                    budget = Budget(rounds * BATCH * len(plan.tasks))
                    transferred = sources if side == "with" else ()
                    report = tune(plan, endpoint, folder, budget, EngineOptions(seed, sources=transferred))
                print(f"seed {seed}, {side}: {report.trials} trials, {report.seconds:.0f} s now", flush=True)
                best[side, seed, rounds] = best_knobs(folder / "database" / "trials.jsonl", budget.trials)
    return best


def best_knobs(path: Path, trials: int) -> dict[str, Knobs]:
    """The fastest knobs of each task among the first ``trials`` lines of a log."""
    with TemporaryDirectory() as folder:
        start = Path(folder) / "trials.jsonl"
        start.write_text("".join(path.read_text().splitlines(keepends=True)[:trials]))
        log = TrialLog(start)
    best = {}
    for task, tried in log.templated.items():
        valid = [trial for trial in tried if trial.best_ms is not None]
        if valid:
            best[task] = min(valid, key=lambda trial: trial.best_ms).knobs
    return best


def time_in_turn(plan: Plan, tasks: dict[TuningTask, list[Knobs]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each of a task's knobs, by task: medians over turns, timed as tuning times trials."""
    target, result = plan.target, {}
    with (
        connect_device(target) as endpoint,
        TemporaryDirectory() as folder,
        BuilderPool(target, allowed_cores(), Path(folder)) as pool,
        worker_for(target, endpoint) as worker,
    ):
        built = {task: [(c, pool.submit(c)) for c in map(candidate_of(task), ways)] for task, ways in tasks.items()}
        for number, (task, builds) in enumerate(built.items()):
            jobs = []
            for index, (candidate, future) in enumerate(builds):
                library = pool.result(future)
                if not isinstance(library, Built):
                    raise SystemExit(f"{task.kernel.name}: {library.error}")
                path = Path(folder) / f"{number}_{index}.so"
                path.write_bytes(library.library)
                jobs.append(KernelJob(str(path), candidate.arguments, library.pool))
            timings = worker.call(time_kernels, jobs * turns, Repeats(1, 10), seconds=300.0)
            times = np.array([timing.best_ms for timing in timings]).reshape(turns, len(jobs))
            result[task.kernel.key] = [float(value) for value in np.median(times, axis=0)]
    return result


def candidate_of(task: TuningTask):
    shape = shape_of(task.kernel.mod)
    return lambda knobs: ScheduleCandidate.of(apply_knobs(task.kernel.mod, shape, knobs), knobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tuning logs of all sides")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--blocks", default="block/k3_e6/*")
    parser.add_argument("--other-cpu", default="x86-64-v3")
    parser.add_argument("--other-rounds", type=int, default=3, help="trials of the other target, in rounds per task")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tune-only", action="store_true", help="leave the comparison to a later call")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    space, host = load_space(options.space), load_target(options.target)
    other = other_target(host, options.other_cpu, options.out)
    if not (options.out / "other" / "database").exists():
        plan = plan_space(space, load_target(str(other)), options.blocks)
        with connect_device(plan.target) as endpoint:
            tune(plan, endpoint, options.out / "other", Budget(options.other_rounds * BATCH * len(plan.tasks)))
    plan = plan_space(space, host, options.blocks)
    best_by_side = tune_sides(plan, other, options)
    if not options.tune_only:
        compare(plan, best_by_side, options)


def compare(plan: Plan, best_by_side: Best, options: argparse.Namespace) -> None:
    tasks = [task for task in plan.tasks if all(task.kernel.key in best for best in best_by_side.values())]
    ways = {
        task: list({best[task.kernel.key].key: best[task.kernel.key] for best in best_by_side.values()}.values())
        for task in tasks
    }
    times = time_in_turn(plan, ways, options.turns)
    cells = np.array([task.cells for task in tasks], dtype=float)
    fastest = np.log([min(times[task.kernel.key]) for task in tasks])
    logs = {
        which: np.log([times[t.kernel.key][[k.key for k in ways[t]].index(best[t.kernel.key].key)] for t in tasks])
        for which, best in best_by_side.items()
    }
    print(f"{len(tasks)} tasks, {sum(map(len, ways.values()))} kernels timed in turn")
    for rounds in sorted(options.rounds):
        without, transferred = (np.array([logs[side, seed, rounds] for seed in range(options.seeds)]) for side in SIDES)
        each = np.exp(np.average(transferred - without, axis=1, weights=cells))
        name = f"{BATCH * rounds} trials per task, with over without transfer"
        report_figure(name, each, "ratio", better="lower")
        every = ", ".join(f"{ratio:.3f}" for ratio in each)
        excess = [side.mean(axis=0) - fastest for side in (without, transferred)]
        above = [100 * (np.exp(np.average(side, weights=cells)) - 1) for side in excess]
        worst = [100 * (np.exp(side.max()) - 1) for side in excess]
        print(
            f"{BATCH * rounds} trials per task: with / without {np.exp(np.log(each).mean()):.3f} (seeds: {every}); "
            f"above the fastest found {above[0]:.1f} % without, {above[1]:.1f} % with; worst task {worst[0]:.0f} % and "
            f"{worst[1]:.0f} %",
            flush=True,
        )


if __name__ == "__main__":
    with as_command():
        main()
