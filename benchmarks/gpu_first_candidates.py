"""What the GPU templates' first candidates are worth beside those of MetaSchedule's rules, on a device without a GPU.

    python benchmarks/gpu_first_candidates.py pocl [--space fbnet_mini] [--kernels 6] [--candidates 4] [--turns 5]

For kernels spread over a space, both searches propose their first candidates, before either has learnt anything; all
are built and timed in turn in one session. Prints how many failed, the fastest of each side (minima over turns), and
the geometric mean of their ratio. On `pocl` the times are those of this machine's CPU: they say that the kernels run
and in which order they stand there, and nothing about a phone's GPU.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory

from figures import report_figure
from first_candidates import first_candidates

from tvmfbnet.autotune.builder_pool import BuilderPool, Built
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.evolution import EvolutionSearch, new_cost_model
from tvmfbnet.autotune.gpu_space import has_template
from tvmfbnet.autotune.plan import Plan, TuningTask
from tvmfbnet.autotune.templates import shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.pipeline.tuning import plan_space
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import KernelJob, Repeats, time_kernels
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target

SIDES = ("metaschedule", "templates")


def chosen_tasks(plan: Plan, most: int) -> list[TuningTask]:
    """Templated tasks of a plan, spread over its space, at most one of a shape."""
    shapes = {shape_of(task.kernel.mod): task for task in plan.tasks}
    tasks = [task for shape, task in shapes.items() if shape is not None and has_template(shape)]
    return tasks[:: max(1, len(tasks) // most)][:most]


def proposals(plan: Plan, task: TuningTask, count: int, folder: Path) -> dict[str, list[ScheduleCandidate]]:
    """What each side proposes first."""
    compiled_for = plan.target.for_tvm()
    database = TuningDatabase(folder / task.kernel.key, repair=True)
    theirs = EvolutionSearch(task.kernel, compiled_for, database, new_cost_model(), count, 0)
    ours = first_candidates(task.kernel, shape_of(task.kernel.mod), compiled_for, count)
    return dict(zip(SIDES, (list(theirs.propose(count)), ours), strict=True))


def best_of(
    plan: Plan, task: TuningTask, options: argparse.Namespace, endpoint, pool, folder: Path
) -> dict[str, object]:
    """Valid candidates and the fastest time of both sides for one kernel."""
    jobs: list[tuple[str, KernelJob]] = []
    failed = dict.fromkeys(SIDES, 0)
    proposed = proposals(plan, task, options.candidates, folder)
    for side, candidates in proposed.items():
        for number, candidate in enumerate(candidates):
            built = pool.result(pool.submit(candidate)) if not candidate.error else None
            if not isinstance(built, Built):
                failed[side] += 1
                continue
            path = folder / f"{task.kernel.key}_{side}{number}.so"
            path.write_bytes(built.library)
            jobs.append((side, KernelJob(str(path), candidate.arguments, built.pool)))
    turns = [job for _, job in jobs] * options.turns
    with worker_for(plan.target, endpoint) as worker:  # a session has a deadline, and proposing takes long
        timings = worker.call(time_kernels, turns, Repeats(1, 2), seconds=plan.target.timeouts.session)
    best: dict[str, float] = {}
    for place, (side, _) in enumerate(jobs):
        times = [timings[turn * len(jobs) + place].best_ms for turn in range(options.turns)]
        if None in times:
            failed[side] += 1
        else:
            best[side] = min(best.get(side, float("inf")), *times)
    return {
        "kernel": task.kernel.name,
        "shape": str(shape_of(task.kernel.mod)).partition(", extra")[0],
        **{f"{side}_failed": f"{failed[side]} of {len(proposed[side])}" for side in SIDES},
        **{f"{side}_ms": round(best[side], 5) for side in SIDES if side in best},
    }


def main() -> None:
    """Prints a line for each kernel and the summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="pocl, or a GPU that can be reached")
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--kernels", type=int, default=6)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--kept", type=Path, help="a target's folder of tuning logs, whose lowered parts are used")
    options = parser.parse_args()
    plan = plan_space(load_space(options.space), load_target(options.target), folder=options.kept)
    lines = []
    with (
        TemporaryDirectory() as name,
        connect_device(plan.target) as endpoint,
        BuilderPool(plan.target, 1, Path(name)) as pool,
    ):
        for task in chosen_tasks(plan, options.kernels):
            lines.append(best_of(plan, task, options, endpoint, pool, Path(name)))
            print(json.dumps(lines[-1]), flush=True)
    both = [line for line in lines if all(f"{side}_ms" in line for side in SIDES)]
    ratio = geometric_mean(float(str(line["templates_ms"])) / float(str(line["metaschedule_ms"])) for line in both)
    report_figure(f"{options.target}, templates over MetaSchedule", ratio, "ratio", better="lower")
    print(json.dumps({"kernels": len(both), "templates / metaschedule": round(ratio, 3), "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    with as_command():
        main()
