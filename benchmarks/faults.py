"""Injects faults into a fleet of three real device servers while it works, and prints the tally.

By default two clients measure, with the worker that tuning uses and deadlines of seconds; results are compared bit for
bit with a fault-free run's. With ``--tune`` the tuning engine tunes, and what it tried and recorded is compared with a
fault-free tuning's. Nothing may be lost or wrong, no call may outlast its deadline. The faults: ``fleet.py``.

    python benchmarks/faults.py --faults 200
    python benchmarks/faults.py --tune --faults 48
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import numpy as np
from figures import report_figure
from fleet import Fleet

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.library import linker
from tvmfbnet.errors import DeviceError
from tvmfbnet.profiling.canary import CANARY_SIZE, build_canary
from tvmfbnet.rpc.remote import RemoteError, RemoteWorker
from tvmfbnet.rpc.tracker import await_key
from tvmfbnet.targets.definition import load_target, resolve
from tvmfbnet.targets.sections import Timeouts

# The workers cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CLIENTS = 2
SESSION_SECONDS, CONNECT_SECONDS, CALL_SECONDS = 4, 3.0, 5.0
# A call that lasts this much longer than the deadline of the stage that it is in counts as hung.
GRACE_SECONDS = 1.0
# A tuning takes less than a minute; one that takes this long has come to a stop, or died.
LONGEST_TUNING_SECONDS = 600.0


def measure(session, library, number):
    """Runs the canary on inputs that belong to ``number``; its result's bytes and its latency."""
    generator = np.random.default_rng(number)
    vector = generator.standard_normal(CANARY_SIZE).astype(np.float32)
    matrix = generator.standard_normal((CANARY_SIZE, CANARY_SIZE)).astype(np.float32)
    module = session.load(library)
    arguments = [session.put(array) for array in (vector, matrix, np.zeros(CANARY_SIZE, np.float32))]
    module["main"](*arguments)
    seconds = module.time_evaluator("main", session.device, number=1, repeat=3, min_repeat_ms=1)(*arguments).results
    return arguments[2].numpy().tobytes(), [1e3 * value for value in seconds]


class Stopwatched(RemoteWorker):
    """Knows how much longer than its deadline the last call's last stage lasted (negative: it was in time)."""

    overrun = 0.0
    _since = 0.0

    def call(self, job, *arguments, seconds):
        """As its parent's."""
        self.start()
        self._since = time.monotonic()
        try:
            return super().call(job, *arguments, seconds=seconds)
        finally:
            limits = {"queue": self.session_seconds + seconds, "connect": self.connect_seconds, "run": seconds}
            self.overrun = time.monotonic() - self._since - limits.get(self._stage, 0.0)

    def _told(self, stage, note):
        super()._told(stage, note)
        self._since = time.monotonic()


@dataclass
class Tally:
    """What happened."""

    faults: collections.Counter = field(default_factory=collections.Counter)
    reasons: collections.Counter = field(default_factory=collections.Counter)
    hangs: int = 0
    longest_overrun: float = -1e9


class Clients:
    """Measures one number after another on a fleet until told to stop; what fails is tried again until it is there."""

    def __init__(self, fleet: Fleet, tally: Tally) -> None:
        self.fleet, self.tally = fleet, tally
        target = resolve(load_target("host"))
        self.library = str(fleet.folder / "canary.so")
        build_canary(target, Path(self.library), linker(target))
        self.results: dict[int, bytes] = {}
        self.latencies: list[float] = []
        self.asked, self._lock, self.stopping = 0, threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        endpoint = self.fleet.endpoint
        with Stopwatched(endpoint, "cpu", SESSION_SECONDS, CONNECT_SECONDS) as worker:
            while not self.stopping.is_set():
                with self._lock:
                    number, self.asked = self.asked, self.asked + 1
                while number not in self.results:
                    self._try(worker, number)

    def _try(self, worker: Stopwatched, number: int) -> None:
        try:
            result, repeats = worker.call(measure, self.library, number, seconds=CALL_SECONDS)
            with self._lock:
                self.results[number] = result
                self.latencies += repeats
        except RemoteError as error:
            with self._lock:
                self.tally.reasons[error.happening] += 1
            with suppress(DeviceError):
                await_key(self.fleet.endpoint, 30)
        finally:
            with self._lock:
                self.tally.hangs += worker.overrun > GRACE_SECONDS
                self.tally.longest_overrun = max(self.tally.longest_overrun, worker.overrun)

    def stop(self) -> int:
        """Waits for both to finish what they began; how many are stuck."""
        self.stopping.set()
        limit = time.monotonic() + 120
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def count_wrong(self) -> int:
        """How many results differ from those of a fault-free run, bit for bit (a sample of 50 is run again)."""
        chosen = random.Random(0).sample(sorted(self.results), min(50, len(self.results)))
        with RemoteWorker(self.fleet.endpoint, "cpu", 60) as worker:
            return sum(worker.call(measure, self.library, n, seconds=60)[0] != self.results[n] for n in chosen)


def inject(fleet: Fleet, tally: Tally, count: int, seed: int, minutes: float, going_on) -> None:
    """Injects ``count`` faults, every kind in turn on random devices; fewer when the time is over or the work done."""
    generator, kinds = random.Random(seed), fleet.faults()
    end = time.monotonic() + 60 * minutes
    for index in range(count):
        if time.monotonic() > end or not going_on():
            break
        kind = list(kinds)[index % len(kinds)]
        kinds[kind](fleet, generator.choice(fleet.devices), generator)
        tally.faults[kind] += 1
        print(f"{index + 1}/{count} {kind}", file=sys.stderr, flush=True)


def run_measuring(count: int, seed: int, folder: Path, minutes: float) -> dict[str, object]:
    """The tally of faults while two clients measure."""
    tally = Tally()
    with ExitStack() as stack:
        fleet = Fleet(folder, stack)
        fleet.await_devices()
        clients = Clients(fleet, tally)
        inject(fleet, tally, count, seed, minutes, lambda: True)
        fleet.await_devices()
        stuck = clients.stop()
        wrong = clients.count_wrong()
    return {
        **told(tally),
        "measurements_asked": clients.asked,
        "measurements_done": len(clients.results),
        "lost": clients.asked - len(clients.results),
        "hangs": tally.hangs + stuck,
        "wrong_results": wrong,
        "calls_tried_again": tally.reasons.total(),
        "because": dict(tally.reasons.most_common()),
        "longest_overrun_seconds": round(tally.longest_overrun, 3),
        "deadlines_seconds": {"connect": CONNECT_SECONDS, "run": CALL_SECONDS},
        "median_latency_ms": float(np.median(clients.latencies)),
    }


def told(tally: Tally) -> dict[str, object]:
    """The faults of a tally."""
    return {
        "faults": dict(tally.faults),
        "faults_in_all": tally.faults.total(),
        "kinds": len(tally.faults),
        "network_faults": "yes" if "network cut" in tally.faults else "no: they need root and iproute2",
    }


# So small that all is proposed before the cost model has seen enough to learn from: what it learns depends on measured
# times, and then no two tunings would try the same.
SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 4
stem: {channels: 8, stride: 1}
stages:
  - {channels: 16, layers: 1, stride: 1}
blocks: [k3_e3]
last_channels: 16
"""


def run_tuning(count: int, seed: int, folder: Path, minutes: float) -> dict[str, object]:
    """The tally of faults while the engine tunes, again and again with another seed, and how it differs from none."""
    from tvmfbnet.autotune.engine import tune
    from tvmfbnet.autotune.engine_options import Budget, EngineOptions
    from tvmfbnet.pipeline.tuning import plan_space
    from tvmfbnet.space.registry import load_space

    (folder / "small.yaml").write_text(SPACE)
    quiet = plan_space(load_space(str(folder / "small.yaml")), load_target("host"))
    # Deadlines of seconds, and timing that lasts, so that faults meet it.
    timing = quiet.target.timing.model_copy(update={"trial_min_ms": 100})
    timeouts = Timeouts(connect=5, session=60, trial=1, build=60)
    target = quiet.target.model_copy(update={"timeouts": timeouts, "timing": timing})
    plan = dataclasses.replace(quiet, target=target)
    tally, happenings, failures = Tally(), collections.Counter(), collections.Counter()
    seconds: list[float] = []
    with ExitStack() as stack:
        fleet = Fleet(folder, stack)
        fleet.await_devices()
        injector = threading.Thread(
            target=inject, args=(fleet, tally, count, seed, minutes, lambda: not stuck), daemon=True
        )
        stuck = False
        injector.start()
        while injector.is_alive() and not stuck:
            number, reports, started = len(seconds), [], time.monotonic()
            tuning = threading.Thread(
                target=lambda number=number, reports=reports: reports.append(
                    tune(plan, fleet.endpoint, folder / f"faults-{number}", Budget(1), EngineOptions(number))
                ),
                daemon=True,
            )
            tuning.start()
            tuning.join(LONGEST_TUNING_SECONDS)
            stuck = not reports
            if stuck:
                break
            seconds.append(time.monotonic() - started)
            for device, told_of in reports[0].device_faults.items():
                happenings.update({f"{device}: {what}": times for what, times in told_of.items()})
            failures.update({**reports[0].failures, "untuned": len(reports[0].untuned)})
        injector.join()
        fleet.await_devices()
        for number in range(len(seconds)):
            tune(quiet, fleet.endpoint, folder / f"quiet-{number}", Budget(1), EngineOptions(number))
    pairs = [(folder / f"faults-{number}", folder / f"quiet-{number}") for number in range(len(seconds))]
    return {
        **told(tally),
        "tunings": len(seconds),
        "trials": sum(len(lines(faulty)) for faulty, _ in pairs),
        "lost": sum(missing(faulty, without) for faulty, without in pairs),
        "hangs": int(stuck),
        "wrong_results": sum(tried(faulty) != tried(without) for faulty, without in pairs),
        "failed_trials": {kind: times for kind, times in failures.items() if times},
        "longest_tuning_seconds": round(max(seconds, default=0.0), 1),
        "what_happened_to_the_devices": dict(sorted(happenings.items())),
    }


def lines(folder: Path) -> list[dict[str, object]]:
    """The trials of a tuning."""
    return [json.loads(line) for line in (folder / "database" / "trials.jsonl").read_text().splitlines()]


def tried(folder: Path) -> list[tuple[str, str, bool]]:
    """What was tried and whether it worked: task, knobs (of templated kernels), success; in a fixed order."""
    return sorted((line["task"], json.dumps(line["knobs"]), line["best_ms"] is not None) for line in lines(folder))


def missing(folder: Path, quiet: Path) -> int:
    """Trials of the fault-free tuning that the other one's log lacks, and tasks without a schedule in its database."""
    records = (folder / "database" / "database_tuning_record.json").read_text().splitlines()
    scheduled = {json.loads(record)[0] for record in records}
    tasks = {line["task"] for line in lines(quiet) if line["best_ms"] is not None}
    return max(0, len(lines(quiet)) - len(lines(folder))) + max(0, len(tasks) - len(scheduled))


def main() -> None:
    """Prints the tally as JSON; exit code 1 when something was lost, hung or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop injecting after this long")
    parser.add_argument("--tune", action="store_true", help="tune meanwhile, in place of measuring")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    run = run_tuning if options.tune else run_measuring
    with tempfile.TemporaryDirectory(prefix="tvmfbnet-faults-") as folder:
        tally = run(options.faults, options.seed, Path(folder), options.minutes)
    print(json.dumps(tally, indent=1))
    sys.stdout.flush()
    for name in ("lost", "hangs", "wrong_results"):
        report_figure(f"{name}, of {options.faults} faults", float(tally[name]), "count", better="lower", exact=True)
    bad = tally["lost"] or tally["hangs"] or tally["wrong_results"]
    os._exit(1 if bad else 0)


if __name__ == "__main__":
    with as_command():
        main()
