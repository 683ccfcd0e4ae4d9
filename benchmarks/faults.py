"""Injects faults into a fleet of three real device servers while it measures, and prints the tally.

Three native servers of this machine serve one key at a real tracker; two clients measure with the same worker, deadline
and retries that tuning uses. Meanwhile servers are killed and frozen, sessions die, kernels crash and hang, the tracker
goes and comes back, garbage arrives at every port, disks are full. At the end every measurement must be there, with the
very result of a fault-free run, and no call may have lasted longer than its deadline.

    python benchmarks/faults.py --faults 200
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import numpy as np
import psutil

from tvmfbnet.compiler.library import linker
from tvmfbnet.devices.local import LOOPBACK, Service, free_port
from tvmfbnet.devices.programs import build_programs
from tvmfbnet.devices.remote import RemoteWorker
from tvmfbnet.devices.starting import server_command
from tvmfbnet.devices.target import load_target, resolve_native
from tvmfbnet.devices.timing import CANARY_SIZE, build_canary
from tvmfbnet.devices.tracker import Endpoint, query_tracker, require_key
from tvmfbnet.errors import DeviceError

# The workers cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

DEVICES = 3
CLIENTS = 2
KEY = "fleet"
SESSION_SECONDS = 4
CALL_SECONDS = 10.0
START_SECONDS = 120.0
# A call that lasts this much longer than its deadline counts as hung. Its worker has 5 s to say so itself; killing it
# and reading that it is gone took up to 7 s more on a machine with four times as much work as cores.
GRACE_SECONDS = 20.0


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


def run_bad_kernel(session, library):
    """Calls a kernel that crashes or never ends."""
    session.load(library)["main"]()


def load_tvm(session):
    """Nothing: the worker has loaded TVM when it answers."""
    return True


@dataclass
class Device:
    """One server process of the fleet."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, command, log):
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )

    def family(self):
        """The server and its session, if one runs."""
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def kill(self):
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@dataclass
class Tally:
    """What happened."""

    faults: collections.Counter = field(default_factory=collections.Counter)
    retried: int = 0
    hangs: int = 0
    wrong: int = 0
    longest_call: float = 0.0
    reasons: collections.Counter = field(default_factory=collections.Counter)


class Fleet:
    """Tracker, three servers, two clients and a queue of measurements.

    Args:
        folder: for libraries and logs.
        stack: ends everything.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        target = resolve_native(load_target("host"))
        self.folder, self.tally = folder, Tally()
        self.endpoint = Endpoint(LOOPBACK, free_port(), KEY)
        self.library = str(folder / "canary.so")
        build_canary(target, Path(self.library), linker(target))
        self.bad = {name: self._bad_library(name, body) for name, body in BAD_KERNELS.items()}
        self.command = server_command(target, str(build_programs(target).server), self.endpoint.address, KEY)
        self.command += ["--folder", str(folder), "--max-session", "30"]
        self.log = stack.enter_context((folder / "servers.log").open("ab"))
        self._tracker: Service | None = None
        self.start_tracker()
        stack.callback(lambda: self._tracker.stop())
        self.devices = [Device(free_port()) for _ in range(DEVICES)]
        for device in self.devices:
            device.start(self.command, self.log)
            stack.callback(device.kill)
        # A client of its own for kernels that crash: the measuring ones must meet their consequences only.
        self.injector = stack.enter_context(RemoteWorker(self.endpoint, "cpu", SESSION_SECONDS))
        self.results: dict[int, bytes] = {}
        self.latencies: list[float] = []
        self._next, self._lock, self.stopping = 0, threading.Lock(), threading.Event()

    def _bad_library(self, name: str, body: str) -> str:
        source, library = self.folder / f"{name}.c", self.folder / f"{name}.so"
        source.write_text(f"int __tvm_ffi_main(void* a, void* b, int n, void* r) {{ {body} return 0; }}\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-O0", "-o", library, source], check=True)
        return str(library)

    def start_tracker(self) -> None:
        self._tracker = Service(["tracker", "--host", LOOPBACK, "--port", str(self.endpoint.port)])
        self._tracker.wait_until_ready()

    def stop_tracker(self) -> None:
        self._tracker.stop()

    def await_devices(self, count: int) -> None:
        """Until so many servers are registered."""
        deadline = time.monotonic() + 60
        while query_tracker(self.endpoint.host, self.endpoint.port).serving(KEY) < count:
            if time.monotonic() > deadline:
                raise DeviceError(f"fewer than {count} servers came back")
            time.sleep(0.05)

    def client(self) -> None:
        """Measures one number after another until the fleet stops; what fails is tried again until it is there."""
        with RemoteWorker(self.endpoint, "cpu", SESSION_SECONDS) as worker:
            warm = False
            while not self.stopping.is_set():
                with self._lock:
                    number, self._next = self._next, self._next + 1
                while number not in self.results:
                    warm = self._try(worker, number, warm)

    def _try(self, worker: RemoteWorker, number: int, warm: bool) -> bool:
        """One call; returns whether the worker is still a warm one."""
        started = time.monotonic()
        limit = CALL_SECONDS if warm else START_SECONDS
        try:
            if not warm:
                require_key(self.endpoint, 60)
                started = time.monotonic()
                worker.call(load_tvm, seconds=limit)
                return True
            result, repeats = worker.call(measure, self.library, number, seconds=limit)
            with self._lock:
                self.results[number] = result
                self.latencies += repeats
        except DeviceError as error:
            self.tally.retried += 1
            self.tally.reasons[reason(str(error))] += 1
            with suppress(DeviceError):
                require_key(self.endpoint, 30)
            warm = "no answer" not in str(error) and "broke" not in str(error)
        finally:
            elapsed = time.monotonic() - started
            self.tally.longest_call = max(self.tally.longest_call, elapsed if warm else 0.0)
            self.tally.hangs += elapsed > limit + GRACE_SECONDS
        return warm


def reason(message: str) -> str:
    """A failure's kind, without its numbers."""
    for known in ("gave no answer", "RPCSessionTimeoutError", "connection", "kShutdown", "cannot write", "no tracker"):
        if known in message:
            return known
    return message.split(": ")[-1][:60]


BAD_KERNELS = {
    "crash": "*(volatile int*)8 = 1;",
    "hang": "for (volatile int i = 0;; ++i) {}",
    "abort": "__builtin_trap();",
}


# The faults. Each leaves the fleet able to recover by itself, or mends what only a person could.


def kill_server(fleet, device, _random):
    device.kill()
    time.sleep(0.3)
    device.start(fleet.command, fleet.log)


def freeze_server(fleet, device, _random):
    family = device.family()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(3)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def kill_session(fleet, device, _random):
    for process in device.family()[1:]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def restart_tracker(fleet, device, _random):
    fleet.stop_tracker()
    time.sleep(0.5)
    fleet.start_tracker()


def bad_kernel(name):
    def inject(fleet, device, _random):
        with suppress(DeviceError):
            fleet.injector.call(run_bad_kernel, fleet.bad[name], seconds=START_SECONDS)

    return inject


def garbage(port, data):
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=2) as connection:
        connection.sendall(data)
        connection.settimeout(0.2)
        connection.recv(16)


def garbage_at_server(fleet, device, generator):
    garbage(device.port, generator.randbytes(generator.choice([1, 4, 64, 5000])))


def garbage_at_tracker(fleet, device, generator):
    data = generator.randbytes(64)
    bad_json = struct.pack("<i", 0x2F271) + struct.pack("<i", 5) + b"{]!\xff\x00"
    garbage(fleet.endpoint.port, generator.choice([data, bad_json, b"GET / HTTP/1.0\r\n\r\n"]))


def huge_key_at_server(fleet, device, _random):
    garbage(device.port, struct.pack("<ii", 0xFF271, 2**31 - 1) + b"client:")


def wrong_key(fleet, device, generator):
    key = f"client:{KEY}:{generator.random()}".encode()
    garbage(device.port, struct.pack("<ii", 0xFF271, len(key)) + key)
    with suppress(DeviceError):
        require_key(Endpoint(fleet.endpoint.host, fleet.endpoint.port, "nobody"), 0.1)


def silent_client(fleet, device, _random):
    with suppress(OSError), socket.create_connection((LOOPBACK, device.port), timeout=2):
        time.sleep(1)


def disk_full(fleet, device, _random):
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(device.process.pid)
        process.rlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
        time.sleep(1.5)
        process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


FAULTS = {
    "server killed (kill -9)": kill_server,
    "server frozen (SIGSTOP)": freeze_server,
    "session killed": kill_session,
    "tracker gone and back": restart_tracker,
    "crashing kernel": bad_kernel("crash"),
    "aborting kernel": bad_kernel("abort"),
    "hung kernel": bad_kernel("hang"),
    "garbage at the server": garbage_at_server,
    "garbage at the tracker": garbage_at_tracker,
    "huge key at the server": huge_key_at_server,
    "wrong key": wrong_key,
    "silent client": silent_client,
    "disk full": disk_full,
}


def run(count: int, seed: int, folder: Path, minutes: float) -> dict[str, object]:
    """Injects ``count`` faults (fewer when the time is over), every kind in turn on random devices; the tally."""
    generator = random.Random(seed)
    with ExitStack() as stack:
        fleet = Fleet(folder, stack)
        fleet.await_devices(DEVICES)
        threads = [threading.Thread(target=fleet.client, daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        kinds = list(FAULTS)
        end = time.monotonic() + 60 * minutes
        for index in range(count):
            if time.monotonic() > end:
                break
            kind = kinds[index % len(kinds)]
            FAULTS[kind](fleet, generator.choice(fleet.devices), generator)
            fleet.tally.faults[kind] += 1
            print(f"{index + 1}/{count} {kind}: {len(fleet.results)} measured", file=sys.stderr, flush=True)
        fleet.await_devices(DEVICES)
        fleet.stopping.set()
        limit = time.monotonic() + START_SECONDS + CALL_SECONDS
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))
        stuck = sum(thread.is_alive() for thread in threads)
        asked, results = fleet._next, dict(fleet.results)
        wrong = compare(fleet, results)
    tally = fleet.tally
    return {
        "faults": dict(tally.faults),
        "faults_in_all": sum(tally.faults.values()),
        "kinds": len(tally.faults),
        "measurements_asked": asked,
        "measurements_done": len(results),
        "lost": asked - len(results),
        "hangs": tally.hangs + stuck,
        "wrong_results": wrong,
        "calls_retried": tally.retried,
        "retried_because": dict(tally.reasons),
        "longest_call_seconds": round(tally.longest_call, 1),
        "call_deadline_seconds": CALL_SECONDS,
        "median_latency_ms": float(np.median(fleet.latencies)),
    }


def compare(fleet: Fleet, results: dict[int, bytes]) -> int:
    """How many results differ from those of a fault-free run, bit for bit (a sample of 50 is run again)."""
    chosen = random.Random(0).sample(sorted(results), min(50, len(results)))
    with RemoteWorker(fleet.endpoint, "cpu", 60) as worker:
        worker.call(load_tvm, seconds=START_SECONDS)
        return sum(worker.call(measure, fleet.library, n, seconds=60)[0] != results[n] for n in chosen)


def main() -> None:
    """Prints the tally as JSON; exit code 1 when something was lost, hung or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop injecting after so long")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    with tempfile.TemporaryDirectory(prefix="tvmfbnet-faults-") as folder:
        tally = run(options.faults, options.seed, Path(folder), options.minutes)
    print(json.dumps(tally, indent=1))
    sys.stdout.flush()
    bad = tally["lost"] or tally["hangs"] or tally["wrong_results"]
    os._exit(1 if bad else 0)


if __name__ == "__main__":
    main()
