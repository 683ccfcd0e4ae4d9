"""How far a tuned space is from what ten times the trials reach: sampled blocks, both kernels timed in turn.

    python benchmarks/tuning_depth.py --space fbnet --target host --tuning-logs tuning_logs [--blocks 8] [--times 10]

The target's tuning database must hold the space; it is copied to ``--out``, and the kernels of the sampled blocks are
tuned on there until they had ``--times`` as many trials (resumable). Then each block is compiled with the
kernels of before and of after, and both are timed in turn, going around copies of their weights. Prints for each block
trials, latencies and before / after, and the worst.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import report_figure

from tvmfbnet.autotune.database import TuningDatabase, database_folder
from tvmfbnet.autotune.engine import tune
from tvmfbnet.autotune.engine_options import Budget
from tvmfbnet.autotune.plan import make_plan
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, kernels_of
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.parts import weight_copies
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("tuning_depth"))
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    space, target = load_space(options.space), resolve(load_target(options.target))
    compiled_for = target.for_tvm()
    before_folder = database_folder(target_folder(target.name, options.tuning_logs))
    after_folder = database_folder(options.out)
    if not after_folder.exists():
        shutil.copytree(before_folder, after_folder)
    blocks = random.Random(options.seed).sample(space.distinct_blocks(), options.blocks)
    plan = make_plan(space, target, blocks)
    spent = TrialLog(before_folder / "trials.jsonl").spent
    trials = sum(spent[task.kernel.key] for task in plan.tasks)
    print(
        f"{len(plan.tasks)} kernels of {len(blocks)} blocks: {trials} trials, now {options.times * trials}", flush=True
    )
    with connect_device(target) as endpoint:
        tune(plan, endpoint, options.out, Budget(options.times * trials))
        databases = [TuningDatabase(folder) for folder in (before_folder, after_folder)]
        longer = TrialLog(after_folder / "trials.jsonl").spent
        ratios = []
        with device_timer(target, endpoint) as timer, TemporaryDirectory() as folder:
            for part in blocks:
                mod = plan.parts[part]
                copies = weight_copies(mod, target)
                libraries = [
                    save_library(build(mod, compiled_for, database.records, copies), Path(folder) / name, target)
                    for database, name in zip(databases, ("before.so", "after.so"), strict=True)
                ]
                turns = [
                    [min(timer.time(library, part_input_shape(part))) / copies for library in libraries]
                    for _ in range(options.turns)
                ]
                before, after = np.median(turns, axis=0)
                ratios.append(float(np.median([one / other for one, other in turns])))
                keys = [kernel.key for kernel in kernels_of(mod, compiled_for)]
                print(
                    f"{part.name:38} {sum(spent[key] for key in keys):4} trials {before:.4f} ms, "
                    f"{sum(longer[key] for key in keys):5} trials {after:.4f} ms: {ratios[-1]:.3f}",
                    flush=True,
                )
    report_figure("more trials, before over after, worst block", max(ratios), "ratio", better="lower")
    print(f"worst {max(ratios):.3f}, median {np.median(ratios):.3f}")


if __name__ == "__main__":
    with as_command():
        main()
