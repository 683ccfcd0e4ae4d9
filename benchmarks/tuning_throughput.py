"""Valid trials per second of tuning, against TVM's stock ``tune_relax``, on the same kernels and machine.

    python benchmarks/tuning_throughput.py [--space fbnet] [--blocks 'block/k3_e6/*'] [--trials 128] [--rounds 1]

Each side runs in a process of its own, start-up included, one after the other, ``--rounds`` times in turn: ours through
a tracker and an RPC server, then stock with 64 and with 16 candidates per round and its default builder and runner.
Lowering the blocks is the same for both and left out. Prints each rate, their ratios, and what a trial of ours costs
by stage, and in CPU time of all processes, which hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import report_figure

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.pipeline.tuning import plan_space
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target


def stock(kernels: list[tuple[str, str]], target_json: str, trials: int, batch: int) -> dict[str, float]:
    """Runs in a process of its own: MetaSchedule's own tuning of the kernels."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    target = tvm.target.Target(json.loads(target_json))
    started = time.perf_counter()
    tasks = [
        ms.ExtractedTask(name, mod, target, [mod], 1)
        for name, mod in ((name, tvm.ir.load_json(text)) for name, text in kernels)
    ]
    with TemporaryDirectory() as folder:
        contexts, weights = ms.relax_integration.extracted_tasks_to_tune_contexts(tasks, folder)
        database = ms.tune.tune_tasks(
            tasks=contexts,
            task_weights=weights,
            work_dir=folder,
            max_trials_global=trials,
            num_trials_per_iter=batch,
        )
        seconds = time.perf_counter() - started
        valid = sum(1 for record in database.get_all_tuning_records() if max(map(float, record.run_secs)) < 1e5)
    return {"valid": valid, "seconds": seconds}


def ours(space: str, blocks: str, target: str, trials: int) -> dict[str, float]:
    """Runs in a process of its own: the engine on the same kernels."""
    from tvmfbnet.autotune.engine import tune
    from tvmfbnet.autotune.engine_options import Budget
    from tvmfbnet.provisioning.loopback import connect_device

    plan = plan_space(load_space(space), load_target(target), blocks)
    started, before = time.perf_counter(), cpu_seconds()
    with TemporaryDirectory() as folder, connect_device(plan.target) as endpoint:
        report = tune(plan, endpoint, Path(folder), Budget(trials))
    valid = report.trials - sum(report.failures.values())
    used = cpu_seconds() - before
    return {"valid": valid, "seconds": time.perf_counter() - started, "CPU": used, **report.profile}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def run_side(arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    value: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {value['valid']} valid in {value['seconds']:.0f} s", flush=True)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--blocks", default="block/k3_e6/*")
    parser.add_argument("--trials", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--stock", type=int, nargs="*", default=[64, 16], help="its candidates per round; none: ours alone"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=64, help=argparse.SUPPRESS)
    parser.add_argument("--kernels", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side == "ours":
        print(json.dumps(ours(options.space, options.blocks, options.target, options.trials)))
        return
    if options.side == "stock":
        given = json.loads(options.kernels.read_text())
        print(json.dumps(stock(given["kernels"], given["target"], options.trials, options.batch)))
        return
    compare(options)


def compare(options: argparse.Namespace) -> None:
    import tvm

    plan = plan_space(load_space(options.space), load_target(options.target), options.blocks)
    print(f"{len(plan.tasks)} kernels, {options.trials} trials per side", flush=True)
    common = ["--space", options.space, "--target", options.target, "--blocks", options.blocks]
    common += ["--trials", str(options.trials)]
    with TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels.json"
        texts = [(task.kernel.name, tvm.ir.save_json(task.kernel.mod)) for task in plan.tasks]
        kernels.write_text(json.dumps({"kernels": texts, "target": plan.target.tvm_json()}))
        for _ in range(options.rounds):
            engine = run_side([*common, "--side", "ours"])
            sides = {
                f"stock, {batch} a round": run_side(
                    [*common, "--side", "stock", "--batch", str(batch), "--kernels", str(kernels)]
                )
                for batch in options.stock
            }
            rate = engine["valid"] / engine["seconds"]
            report_figure("valid trials/s, start-up included", rate, "trials/s", better="higher")
            report_figure("CPU time per trial", 1e3 * engine["CPU"] / engine["valid"], "ms", better="lower")
            for name, side in sides.items():
                other = side["valid"] / side["seconds"]
                if other:
                    report_figure(f"rate over {name}", rate / other, "ratio", better="higher")
                print(
                    f"{name}: {side['valid']} valid in {side['seconds']:.0f} s, {other:.2f}/s; ours is "
                    f"{rate / other:.1f} times as fast"
                    if other
                    else f"{name}: nothing valid",
                    flush=True,
                )
            stages = ", ".join(
                f"{stage} {1e3 * seconds / engine['valid']:.0f} ms"
                for stage, seconds in engine.items()
                if stage not in ("valid", "seconds")
            )
            print(f"ours: {engine['valid']} valid in {engine['seconds']:.0f} s, {rate:.2f}/s; a trial costs {stages}")


if __name__ == "__main__":
    with as_command():
        main()
