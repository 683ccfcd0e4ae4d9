"""Does a verdict keep its word? Runs of choose, compile and measure under a background load that comes and goes.

Each run draws a reachable latency target and a random distribution over archs, chooses from the table as a search does,
and closes the loop on the device: nets are compiled with random weights, timed, chosen again. The net that is kept is
compiled and benched, which gives the run's verdict. All that happens while this script starts and stops programs that
do nothing but spin. Then they are silenced, the same package is timed again, twice as long, and what that says is the
truth: a load only ever adds. Where it contradicts a *met* it is timed again a little later, in case others' work
was in the way; the fastest counts, all are printed.

    python benchmarks/target_contract.py --space fbnet_mini --tuning-logs logs
    python benchmarks/target_contract.py --space fbnet --tuning-logs logs --share 0.4

Prints the verdicts against the truth. Ends with code 1 if a run called a target met that the net misses.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from figures import report_figure

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import Package, compile_net, untrained_net
from tvmfbnet.deploy.trial import bench_with_probe, time_untrained
from tvmfbnet.files import write_json
from tvmfbnet.latency.sources.source import latency_table
from tvmfbnet.latency.sources.target import TargetSource
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.verdict import MET, MISSED, Verdict
from tvmfbnet.pipeline.closed_loop import Proposal, Timed, close_loop
from tvmfbnet.pipeline.tuning import tune_space
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.net_latency import NetLatency, measure_latency
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.search.constraints import Constraint, require_feasible
from tvmfbnet.search.derive import propose
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import Target, load_target, resolve

# Ends with this process, however that ends.
_SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True: pass
"""
# Mean seconds that a spinning program stays on, and off.
_MEAN_SECONDS = 4.0
# Pauses before a truth that contradicts the verdict is measured again.
_LATER_SECONDS = (10.0, 30.0, 60.0)


@contextmanager
def changing_load(processes: int, rng: random.Random) -> Iterator[None]:
    """Programs that spin, each switched on and off at random times of its own."""
    spinners = [subprocess.Popen([sys.executable, "-c", _SPIN], stdin=subprocess.PIPE) for _ in range(processes)]
    done = threading.Event()
    threads = [threading.Thread(target=_switch, args=(spinner, rng.random(), done)) for spinner in spinners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread, spinner in zip(threads, spinners, strict=True):
            thread.join()
            spinner.kill()
            spinner.wait()


def _switch(spinner: subprocess.Popen[bytes], seed: float, done: threading.Event) -> None:
    rng, running = random.Random(seed), random.Random(seed).random() < 0.5
    while not done.is_set():
        os.kill(spinner.pid, signal.SIGCONT if running else signal.SIGSTOP)
        running = not running
        done.wait(rng.expovariate(1 / _MEAN_SECONDS))


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    space: Space
    target: Target
    table: LatencyTable
    logs: Path | None
    processes: int

    def run(self, rng: random.Random) -> dict[str, Any]:
        """One run: what it claimed, and what is true."""
        low, high = self.table.range_ms(self.space)
        target_ms = low + rng.uniform(0.1, 0.7) * (high - low)
        with TemporaryDirectory() as folder:
            with changing_load(self.processes, rng):
                choose = self.choice(rng.randrange(2**31), target_ms)
                loop = close_loop(choose(1.0), target_ms, lambda text: self.measure(text, target_ms), choose)
                arch = parse_arch(loop.kept.arch, self.space)
                database = existing_database(self.target, self.logs)
                package = compile_net(untrained_net(arch, self.space), self.target, database, Path(folder) / "package")
                result = bench_with_probe(package, arch, self.space, self.target, target_ms, self.logs)
            claimed = result.net.verdict(target_ms)
            truths = self.truths(package, claimed)
        truth = min(truths, key=lambda verdict: verdict.measured.value)
        first = loop.attempts[0]
        return {
            "arch": loop.kept.arch,
            "attempts": len(loop.attempts),
            "first_ms": first.measured_ms,
            "table_ms": loop.kept.table_ms,
            "claimed": claimed.to_dict(),
            "speed_factor": None if result.net.speed is None else result.net.speed.to_dict(),
            "truth": truth.to_dict(),
            "truths_ms": [verdict.measured.value for verdict in truths],
        }

    def choice(self, seed: int, target_ms: float) -> Callable[[float], Proposal]:
        """Chooses archs as a search does, from a random distribution; the largest of a few counts as most accurate."""
        generator = torch.Generator().manual_seed(seed)
        widest = max(len(layer.blocks) for layer in self.space.layers)
        theta = torch.randn((len(self.space.layers), widest), generator=generator)
        for row, layer in zip(theta, self.space.layers, strict=True):
            row[len(layer.blocks) :] = -torch.inf
        costs = latency_costs(self.table, self.space)

        def choose(factor: float) -> Proposal:
            scaled = costs.scaled(factor)
            limits = [Constraint(scaled, target_ms)]
            require_feasible(limits)
            proposed = propose(theta.log_softmax(1), self.space, scaled, limits, 20, generator)[:5]
            arch = max((parse_arch(item.arch, self.space) for item in proposed), key=self.size)
            text = next(item.arch for item in proposed if parse_arch(item.arch, self.space) == arch)
            return Proposal(text, self.table.arch_ms(arch, self.space), self.size(arch))

        return choose

    def size(self, arch: Arch) -> float:
        """Multiplications and additions, in place of an accuracy: nothing is trained here."""
        return float(count_arch(arch, self.space).macs)

    def measure(self, text: str, target_ms: float) -> Timed:
        """As a run does."""
        result = time_untrained(parse_arch(text, self.space), self.space, self.target, target_ms, self.logs)
        return Timed(result.interval, result.speed)

    def truths(self, package: Package, claimed: Verdict) -> list[Verdict]:
        """The verdict without the load, again later where it contradicts what was claimed."""
        verdicts: list[Verdict] = []
        for pause in (2.0, *_LATER_SECONDS):
            time.sleep(pause)
            verdicts.append(Verdict(claimed.target_ms, self.quiet(package).interval))
            if not (claimed.kind == MET and all(item.kind == MISSED for item in verdicts)):
                break
        return verdicts

    def quiet(self, package: Package) -> NetLatency:
        """Two rounds of passes, pooled."""
        with connect_device(self.target) as endpoint, device_timer(self.target, endpoint) as timer:
            both = [measure_latency(package.library, package.input_shape, timer) for _ in range(2)]
            fastest = min(timer.single_runs(package.library, package.input_shape))
        return NetLatency(both[0].passes + both[1].passes, fastest_ms=fastest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--target", default="host")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the blocks to time, if the target must be tuned")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="spinning programs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write all figures there, JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no stopped program stays behind
    space, target = load_space(arguments.space), resolve(load_target(arguments.target))
    if existing_database(target, arguments.tuning_logs) is None:
        options = TuneOptions(quality="quick", measure_share=arguments.share)
        tune_space(space, target, options, arguments.tuning_logs)
    table = latency_table(TargetSource(target.name, arguments.tuning_logs, context_of(target)), space)
    bench = Bench(space, target, table, arguments.tuning_logs, arguments.processes)
    runs = []
    print(f"{'target ms':>10} {'nets':>5} {'claimed':>26} {'measured ms':>12} {'truth':>26} {'quiet ms':>10}  speed")
    for number in range(arguments.runs):
        run = bench.run(random.Random(1000 * arguments.seed + number))
        runs.append(run)
        claimed, truth, speed = run["claimed"], run["truth"], run["speed_factor"]
        print(
            f"{claimed['latency_target_ms']:10.4g} {run['attempts']:5} {claimed['verdict']:>26} "
            f"{claimed['measured_ms']:12.4g} {truth['verdict']:>26} {truth['measured_ms']:10.4g}  "
            f"{'none' if speed is None else speed['description']}",
            flush=True,
        )
        if arguments.out is not None:
            write_json(arguments.out, runs)
    tally = Counter((run["claimed"]["verdict_kind"], run["truth"]["verdict_kind"]) for run in runs)
    for (claim, truth), count in sorted(tally.items()):
        print(f"called {claim}, in truth {truth}: {count}")
    name = f"{arguments.space}, of {arguments.runs} runs under load, wrongly called met"
    report_figure(name, tally[MET, MISSED], "count", better="lower", exact=True)
    if tally[MET, MISSED]:
        sys.exit(f"{tally[MET, MISSED]} run(s) called a target met that the net misses")


if __name__ == "__main__":
    with as_command():
        main()
