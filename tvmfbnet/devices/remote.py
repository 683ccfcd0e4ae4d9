"""Jobs on a device: run or time a library over RPC, each in a worker process and under a deadline.

A frozen device or a lost network makes TVM's RPC client wait for ever, and a crashing driver may take the client down
with it. So every remote call runs in a child process that is killed when its time is up; this one never touches RPC.
"""

from __future__ import annotations

import gc
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tvmfbnet.devices.tracker import Endpoint
from tvmfbnet.errors import DeviceError

# A worker has this long beyond its deadline to say that it was missed, and this long to load TVM when it is new.
_KILL_SECONDS = 5.0
_START_SECONDS = 120.0

ResultT = TypeVar("ResultT")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Repeats:
    """How often a function is called when it is timed: ``repeats`` means, each over at least ``min_repeat_ms``."""

    repeats: int
    min_repeat_ms: int
    warmup: int = 0


# The function of a candidate's library that goes around a pool of weights (see :mod:`tvmfbnet.compiler.rotating`).
ROTATE = "rotate"


@dataclass(frozen=True)
class Pool:
    """The weights of a rotating kernel: which argument they are, how many slices, and values (float32) in all."""

    argument: int
    slices: int
    values: int


@dataclass(frozen=True)
class KernelJob:
    """One candidate kernel: its library, its arguments' (dtype, shape), and the pool that it goes around, if any."""

    library: str
    arguments: tuple[tuple[str, tuple[int, ...]], ...]
    pool: Pool | None = None


@dataclass(frozen=True)
class KernelTiming:
    """Timed repeats of one candidate in milliseconds, or why there are none (``error`` and its ``kind``)."""

    repeats_ms: tuple[float, ...] = ()
    error: str = ""
    kind: str = ""

    @property
    def best_ms(self) -> float | None:
        """The fastest repeat, which other work on the device disturbed least; None where the trial failed."""
        return min(self.repeats_ms, default=None)


class RemoteWorker:
    """A child process that talks to one endpoint's devices; replaced when it crashes or misses a deadline.

    Args:
        endpoint: tracker and key.
        device: ``cpu``, ``opencl`` or ``metal``.
        session_seconds: after this the device itself ends a session.
    """

    def __init__(self, endpoint: Endpoint, device: str, session_seconds: int) -> None:
        self.endpoint, self.device, self.session_seconds = endpoint, device, session_seconds
        self._worker: Any = None

    def call(self, job: Callable[..., ResultT], *arguments: Any, seconds: float) -> ResultT:
        """Runs ``job(session, *arguments)`` in the worker.

        Raises:
            DeviceError: the job failed, crashed its worker, or took longer than ``seconds``.
        """
        from tvm.support.popen_pool import PopenWorker

        grace = _KILL_SECONDS
        if self._worker is None:
            self._worker = PopenWorker(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            grace += _START_SECONDS
        spec = (self.endpoint, self.device, self.session_seconds)
        # The worker watches the time itself, but cannot while a call into TVM keeps Python's lock: so do we.
        watch = threading.Timer(seconds + grace, self._expire)
        watch.start()
        try:
            self._worker.send(_run_job, (spec, job, arguments), timeout=seconds)
            status, value = self._worker.recv()
        except TimeoutError as error:
            self.close()
            raise DeviceError(f"{self._where()} gave no answer within {seconds:g} s") from error
        except Exception as error:
            self.close()
            if watch.finished.is_set():
                raise DeviceError(f"{self._where()} gave no answer within {seconds:g} s") from error
            raise DeviceError(f"the connection to {self._where()} broke: {last_line(str(error))}") from error
        finally:
            watch.cancel()
        if status != "done":
            raise DeviceError(f"{self._where()}: {value}")
        result: ResultT = value
        return result

    def _expire(self) -> None:
        """Runs in the watch's thread: kills the process and nothing else, for the caller's thread reads its pipe."""
        process = getattr(self._worker, "_proc", None)
        if process is not None:
            process.kill()

    def _where(self) -> str:
        return f"device {self.endpoint.key!r} at tracker {self.endpoint.address}"

    def close(self) -> None:
        """Ends the child process."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def __enter__(self) -> RemoteWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def last_line(message: str) -> str:
    """The last line that says something: of a traceback, the one that names the failure."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


# What follows runs in the worker process.


def _run_job(spec: tuple[Endpoint, str, int], job: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", job(connect(*spec), *arguments)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {last_line(str(error))}"
    finally:
        gc.collect()  # a session ends with its last reference, and TVM's objects hold cycles


@dataclass(frozen=True)
class Session:
    """An open RPC session and its device."""

    remote: Any
    device: Any

    def load(self, library: str) -> Any:
        """Uploads a library and loads it there."""
        self.remote.upload(library)
        return self.remote.load_module(Path(library).name)

    def virtual_machine(self, library: str) -> Any:
        """Loads a compiled net or block."""
        from tvm import relax

        return relax.VirtualMachine(self.load(library), self.device)

    def put(self, array: Array) -> Any:
        """Copies an array to the device."""
        import tvm

        return tvm.runtime.tensor(array, self.device)


def connect(endpoint: Endpoint, device: str, session_seconds: int) -> Session:
    """Asks the tracker for a device and opens a session."""
    from tvm import rpc

    tracker = rpc.connect_tracker(endpoint.host, endpoint.port)
    remote = tracker.request(endpoint.key, session_timeout=session_seconds, max_retry=2)
    return Session(remote, remote.device(device, 0))


def run_library(session: Session, library: str, inputs: Sequence[Array]) -> Array:
    """Runs a compiled function ``main`` once and returns its only output."""
    machine = session.virtual_machine(library)
    machine.set_input("main", *[session.put(array) for array in inputs])
    machine.invoke_stateful("main")
    output: Array = machine.get_outputs("main").numpy()
    return output


def time_library(session: Session, library: str, shape: tuple[int, ...], repeats: Repeats) -> tuple[float, ...]:
    """Times a compiled function ``main`` on the device; milliseconds, one value a repeat."""
    machine = session.virtual_machine(library)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    machine.save_function("main", "timed", session.put(image), include_return=False)
    if repeats.warmup:
        machine.module.time_evaluator("timed", session.device, number=repeats.warmup)()
    evaluator = machine.module.time_evaluator(
        "timed", session.device, number=1, repeat=repeats.repeats, min_repeat_ms=repeats.min_repeat_ms
    )
    return tuple(1e3 * seconds for seconds in evaluator().results)


def read_clocks(session: Session, library: str, shape: tuple[int, ...], runs: int) -> list[tuple[tuple[int, ...], ...]]:
    """Runs a chain with clocks (see :mod:`tvmfbnet.compiler.chaining`); the clock's readings of each run.

    Each run comes right after another one of the same net, so that it finds the caches as in continuous use.
    """
    machine = session.virtual_machine(library)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    machine.set_input("main", session.put(image))
    # The evaluator calls once before it times, on the device, without a word to us in between.
    evaluator = machine.module.time_evaluator("invoke_stateful", session.device, number=1, repeat=1)
    readings: list[tuple[tuple[int, ...], ...]] = []
    for _ in range(runs):
        evaluator("main")
        clock = machine.get_outputs("main")[1].numpy()
        readings.append(tuple((int(seconds), int(nanoseconds)) for seconds, nanoseconds in clock))
    return readings


def time_kernels(session: Session, jobs: Sequence[KernelJob], repeats: Repeats) -> list[KernelTiming]:
    """Times candidate kernels one after another in one session; a failing candidate does not end the others."""
    fill = session.remote.get_function("tvm.contrib.random.random_fill_for_measure")
    pools: dict[int, Any] = {}
    return [_time_kernel(session, job, repeats, fill, pools) for job in jobs]


def _time_kernel(
    session: Session, job: KernelJob, repeats: Repeats, fill: Callable[[Any], None], pools: dict[int, Any]
) -> KernelTiming:
    import tvm

    try:
        module = session.load(job.library)
        name, calls, shapes = "main", 1, list(job.arguments)
        if job.pool is not None:
            name, calls = ROTATE, job.pool.slices
            shapes[job.pool.argument] = ("float32", (job.pool.values,))
        arguments = []
        for index, (dtype, shape) in enumerate(shapes):
            pooled = job.pool is not None and index == job.pool.argument
            argument = pools.get(shape[0]) if pooled else None
            if argument is None:
                argument = tvm.runtime.empty(shape, dtype, session.device)
                fill(argument)
            if pooled:
                pools[shape[0]] = argument  # candidates of one kernel share it
            arguments.append(argument)
        evaluator = module.time_evaluator(
            name, session.device, number=1, repeat=repeats.repeats, min_repeat_ms=repeats.min_repeat_ms
        )
        return KernelTiming(tuple(1e3 * seconds / calls for seconds in evaluator(*arguments).results))
    except Exception as error:
        _ = session.device.exist  # asks the device: where the session is gone, that is the fault, not the kernel
        return KernelTiming(error=last_line(str(error)), kind="run")
