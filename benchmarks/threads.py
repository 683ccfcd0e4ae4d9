"""One net at one thread and at more on this machine, tuned for each, and ONNX Runtime with as many: what threads bring.

    python benchmarks/threads.py fbnet_c --space fbnet --threads 1 2 [--trials-a-task 8] [--turns 10] [--logs DIR]

Tunes the net's kernels once for each number of threads (a few trials per kernel; DIR keeps them for a second run),
compiles it with random weights, then times every package on a server of its own, and ONNX Runtime, all in turn in one
run. Prints medians, and of the ratios within a turn the median with the 10th and 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import report_figure

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.autotune.engine import tune
from tvmfbnet.autotune.engine_options import Budget
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import Package, compile_net, untrained_net
from tvmfbnet.deploy.runtimes.onnx_runtime import OnnxSession
from tvmfbnet.files import make_folder
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.machine import core_numbers
from tvmfbnet.pipeline.tuning import log_of, plan_space
from tvmfbnet.profiling.device_timer import DeviceTimer, device_timer
from tvmfbnet.progress import say
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.host_facts import host_fingerprint
from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import Target, load_target, resolve


def target_with(threads: int) -> Target:
    """This machine with a given number of threads: a target of its own, so that nothing of one is used for another."""
    host = load_target("host")
    transport = host.transport.model_copy(update={"key": f"threads{threads}"})
    return host.model_copy(update={"name": f"threads{threads}", "threads": threads, "transport": transport})


def tuned(space: Space, arch: Arch, target: Target, logs: Path, trials_a_task: int, out: Path) -> Package:
    """Tunes the kernels of a net for a target and compiles it."""
    plan = plan_space(space, target, arch=arch)
    trials = trials_a_task * len(plan.tasks)
    say(f"{target.threads} thread(s): {trials} trials for {len(plan.tasks)} kernels")
    with connect_device(plan.target) as endpoint:
        tune(plan, endpoint, make_folder(target_folder(target.name, logs)), Budget(trials))
    return compile_net(untrained_net(arch, space), plan.target, existing_database(plan.target, logs), out)


def parallel_kernels(target: Target, logs: Path) -> tuple[int, int]:
    """For how many of the templated kernels the fastest schedule is parallel, and how many there are."""
    tasks = [
        min(valid, key=lambda trial: trial.best_ms or 0.0)
        for trials in log_of(target, logs).templated.values()
        if (valid := [trial for trial in trials if trial.best_ms is not None])
    ]
    return sum(best.knobs.parallel > 0 for best in tasks), len(tasks)


def time_in_turn(
    packages: dict[int, Package], timers: dict[int, DeviceTimer], turns: int
) -> dict[tuple[str, int], list[float]]:
    """Milliseconds by runtime and threads: a median a turn."""
    times: dict[tuple[str, int], list[float]] = {}
    rivals = {
        threads: OnnxSession(
            package.model,
            InputSpec(package.input_shape, package.description.input_dtype),
            threads,
            timers[threads].target.timing,
        )
        for threads, package in packages.items()
    }
    for turn in range(turns):
        for threads, package in packages.items():
            ours = timers[threads].time(package.library, package.input_shape)
            theirs = rivals[threads].time_pass()
            times.setdefault(("tvmfbnet", threads), []).append(statistics.median(ours))
            times.setdefault(("ONNX Runtime", threads), []).append(statistics.median(theirs))
        say(f"turn {turn + 1} of {turns}")
    return times


def ratio(name: str, above: list[float], below: list[float]) -> str:
    """The ratio of neighbours, its median and spread."""
    low, middle, high = np.percentile(np.array(above) / np.array(below), (10, 50, 90))
    return f"{name}: {middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trials-a-task", type=int, default=8)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--logs", type=Path)
    options = parser.parse_args()
    arch, space = resolve_arch(options.arch, load_space(options.space))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        logs = options.logs or folder / "logs"
        targets = {threads: target_with(threads) for threads in options.threads}
        packages = {
            threads: tuned(space, arch, target, logs, options.trials_a_task, folder / f"package{threads}")
            for threads, target in targets.items()
        }
        timers = {}
        for threads, target in targets.items():
            resolved = resolve(target)
            timers[threads] = stack.enter_context(device_timer(resolved, stack.enter_context(connect_device(resolved))))
        times = time_in_turn(packages, timers, options.turns)
        told = {threads: timer.fingerprint.get("threads") for threads, timer in timers.items()}
        shares = {threads: parallel_kernels(target, logs) for threads, target in targets.items()}
    print(f"{host_fingerprint().get('model')}, {len(core_numbers())} cores, load {os.getloadavg()[0]:.1f}")
    for threads, (parallel, tasks) in shares.items():
        print(f"{threads} thread(s), the server had {told[threads]}: {parallel} of {tasks} kernels run in parallel")
    for (runtime, threads), values in times.items():
        print(f"{runtime}, {threads} thread(s): {statistics.median(values):.3f} ms, least {min(values):.3f}")
    first, *others = options.threads
    for runtime in ("tvmfbnet", "ONNX Runtime"):
        for threads in others:
            label = f"{runtime}, {first} to {threads} threads, faster by"
            print(ratio(label, times[runtime, first], times[runtime, threads]))
            speedups = np.array(times[runtime, first]) / np.array(times[runtime, threads])
            report_figure(
                f"{options.arch}, {runtime}, {first} to {threads} threads, speedup", speedups, "ratio", better="higher"
            )
    for threads in options.threads:
        label = f"tvmfbnet to ONNX Runtime, {threads} thread(s)"
        print(ratio(label, times["tvmfbnet", threads], times["ONNX Runtime", threads]))
        ratios = np.array(times["tvmfbnet", threads]) / np.array(times["ONNX Runtime", threads])
        report_figure(
            f"{options.arch}, {threads} thread(s), latency over ONNX Runtime's", ratios, "ratio", better="lower"
        )
    print(json.dumps({f"{runtime} {threads}": values for (runtime, threads), values in times.items()}))


if __name__ == "__main__":
    with as_command():
        main()
