"""Blocks of a space on a simulated core beside published latencies of a device with that core.

Every kernel of the blocks is timed on the simulated core, by the schedule that the tuner would try first; where that is
far from what the core can do (``--slow`` times the time for its multiply-adds or its memory), by the next ones too, and
the fastest counts. A block's time is the sum of its kernels'. Printed are the rank correlation over all blocks, and the
error that is left after the best single scale: the published tables were made with another runtime.

    python benchmarks/simulated_devices.py --core a72 --published fbnet224_raspi4.csv
    python benchmarks/simulated_devices.py --core a75 --published fbnet224_pixel3.csv

Kernel times are kept in ``--out``: started again, it times what is missing.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

from published_blocks import blocks_of, compare, published_ms
from simulating import simulated_device, time_candidates
from tvm.s_tir import Schedule

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.plan import Plan, make_plan
from tvmfbnet.autotune.template_search import TemplateSearch
from tvmfbnet.autotune.templates import registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.compiler.parallel import parallel_defaults
from tvmfbnet.errors import UserError
from tvmfbnet.files import write_json
from tvmfbnet.rpc.session import Repeats
from tvmfbnet.simulation.cores import Core, load_core
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart, Space
from tvmfbnet.targets.definition import ResolvedTarget

# One call to warm the caches, which the evaluator makes by itself, and one that counts: there is no noise.
_ONCE = Repeats(1, 0)
_ROUND = 12


def candidate(kernel: Kernel, target: ResolvedTarget, number: int) -> ScheduleCandidate | None:
    """What the tuner tries as its ``number``-th schedule; one alone, TVM's default, for a kernel without a template."""
    shape, registers = shape_of(kernel.mod), registers_of(target.for_tvm())
    if shape is None:
        default = Schedule(parallel_defaults(kernel.mod, target.for_tvm()))
        return ScheduleCandidate.of(default) if number == 0 else None
    search = TemplateSearch(kernel, shape, TrialCostModel(registers), [], batch=1, seed=0)
    proposed = [search.propose(1) for _ in range(number + 1)][-1]
    return proposed[0] if proposed else None


def least_ms(kernel: Kernel, core: Core) -> float:
    """What a kernel takes at least on a core: its multiply-adds at the peak, or its tensors from memory."""
    shape = shape_of(kernel.mod)
    if shape is None or core.documented is None:
        return 0.0
    pixels = shape.height * shape.width
    products = pixels * shape.channels * shape.kernel**2 * shape.reduction
    inputs = shape.channels // shape.group * shape.reduction if shape.kind == "conv" else shape.channels
    moved = 4 * pixels * (shape.channels + inputs * shape.stride**2)
    peak = 4 * core.documented.fmas_per_cycle * core.frequency_ghz * 1e6
    return max(products / peak, moved / (core.memory.gbps * 1e6))


def time_blocks(
    core: Core, space: Space, parts: list[NetPart], tries: int, slow: float, out: Path
) -> tuple[Plan, dict[str, list[float]]]:
    """The plan of the parts, and the simulated milliseconds of each kernel's schedules; keeps them in a file."""
    times: dict[str, list[float]] = json.loads(out.read_text()) if out.exists() else {}
    with simulated_device(core) as (target, endpoint):
        plan = make_plan(space, target, parts)
        for number in range(tries):
            chosen = [
                (task.kernel, schedule)
                for task in plan.tasks
                if len(times.get(task.kernel.key, [])) == number
                and (number == 0 or min(times[task.kernel.key]) > slow * least_ms(task.kernel, core) > 0)
                and (schedule := candidate(task.kernel, target, number)) is not None
            ]
            for start in range(0, len(chosen), _ROUND):
                pairs = chosen[start : start + _ROUND]
                timings = time_candidates(target, endpoint, [schedule for _, schedule in pairs], _ONCE)
                for (kernel, _), timing in zip(pairs, timings, strict=True):
                    if timing.best_ms is None:
                        raise UserError(f"kernel {kernel.key} failed on the simulated core: {timing.error}")
                    times.setdefault(kernel.key, []).append(timing.best_ms)
                write_json(out, times)
                print(f"schedule {number}: {start + len(pairs)} of {len(chosen)} kernels", flush=True)
    return plan, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", required=True)
    parser.add_argument("--published", type=Path, required=True, help="CSV of the device's latencies")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--tries", type=int, default=6, help="schedules per kernel at most")
    parser.add_argument("--slow", type=float, default=2.5, help="how slow the best so far must be for another try")
    parser.add_argument("--out", type=Path, help="file of the kernels' times")
    arguments = parser.parse_args()
    core, space, published = load_core(arguments.core), load_space(arguments.space), published_ms(arguments.published)
    parts = blocks_of(space)
    out = arguments.out or Path(f"simulated_{core.name}_{core.digest}.json")
    plan, times = time_blocks(core, space, parts, arguments.tries, arguments.slow, out)
    simulated = {part: sum(min(times[kernel.key]) * kernel.count for kernel in plan.kernels[part]) for part in parts}
    compare(simulated, published)


if __name__ == "__main__":
    with as_command():
        main()
