"""Code that runs in a worker process (:mod:`tvmfbnet.rpc.remote`): an open RPC session and its jobs.

A job is a function whose first argument is the session. Its exceptions are reported to the calling process. The worker
has TVM's runtime only (:mod:`tvmfbnet.rpc.runtime_only`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tvmfbnet.dtypes import random_tensor
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.tracker import Endpoint, request_device

Array = npt.NDArray[Any]

# Minimum runs of a chain, however slow the device is.
_MIN_RUNS = 3


@dataclass(frozen=True)
class Repeats:
    """How a function is timed: ``repeats`` averages, each over at least ``min_repeat_ms``, after ``warmup`` calls."""

    repeats: int
    min_repeat_ms: int
    warmup: int = 0


# The function in a candidate's library that cycles through a weight pool (see :mod:`tvmfbnet.compiler.cold_weights`).
ROTATE = "rotate"


@dataclass(frozen=True)
class Pool:
    """The weight pool of a rotating kernel: argument index, number of slices, and total values, of its type."""

    argument: int
    slices: int
    values: int


# Dtype and shape of each argument of a kernel.
Arguments = tuple[tuple[str, tuple[int, ...]], ...]
# The function in a candidate's library that takes weights as they are before prepacking, to compare its output.
CHECKED = "checked"


@dataclass(frozen=True)
class OutputCheck:
    """What a candidate's function ``checked`` must give for fixed random data.

    Attributes:
        arguments: that it takes, the output last.
        expected: file of the output, a numpy array.
        limit: largest relative error, max |difference| / max |expected|.
    """

    arguments: Arguments
    expected: str
    limit: float


@dataclass(frozen=True)
class KernelJob:
    """One candidate kernel: its library, its arguments, its weight pool and the check of its output, if any."""

    library: str
    arguments: Arguments
    pool: Pool | None = None
    check: OutputCheck | None = None


@dataclass(frozen=True)
class KernelTiming:
    """Timed repeats of one candidate in milliseconds, or the ``error`` and its ``kind``."""

    repeats_ms: tuple[float, ...] = ()
    error: str = ""
    kind: str = ""

    @classmethod
    def of(cls, repeats_ms: Sequence[float]) -> KernelTiming:
        """The timing that a device reported, milliseconds; a failed trial if any value is impossible."""
        problem = impossible_time(repeats_ms)
        return cls(tuple(repeats_ms)) if problem is None else cls(error=problem, kind="time")

    @property
    def best_ms(self) -> float | None:
        """The fastest repeat, least disturbed by background noise; None where the trial failed."""
        return min(self.repeats_ms, default=None)


def impossible_time(latencies_ms: Sequence[float]) -> str | None:
    """The problem with latencies in milliseconds that a device reported: missing, zero, negative or not finite."""
    if not latencies_ms:
        return "the device reported no run time"
    impossible = [value for value in latencies_ms if not (math.isfinite(value) and value > 0)]
    return f"the device reported a run time of {impossible[0]:g} ms" if impossible else None


class UploadError(Exception):
    """An upload failed: the device's disk is full, or the connection broke."""


def last_line(message: str) -> str:
    """The last nonempty line: of a traceback, the one that names the failure."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@dataclass(frozen=True)
class Session:
    """An open RPC session and its device; ``give`` delivers partial results while the job runs."""

    remote: Any
    device: Any
    give: Callable[[Any], None] = lambda part: None
    _uploads: Iterator[int] = field(default_factory=itertools.count)

    def load(self, library: str) -> Any:
        """Uploads a library under a unique name and loads it: the file of a loaded library must not change."""
        name = f"{next(self._uploads)}-{Path(library).name}"
        try:
            self.remote.upload(library, target=name)
        except Exception as error:  # TVM raises several kinds
            raise UploadError(last_line(str(error))) from error
        return self.remote.load_module(name)

    def virtual_machine(self, library: str) -> Any:
        """Loads a compiled net or block."""
        from tvm.runtime.vm import VirtualMachine  # importing it from relax loads the compiler

        return VirtualMachine(self.load(library), self.device)

    def put(self, array: Array) -> Any:
        """Copies an array to the device."""
        import tvm

        return tvm.runtime.tensor(array, self.device)


def connect(tell: Callable[[str, str], None], endpoint: Endpoint, device: str, session_seconds: int) -> Session:
    """Requests a device from the tracker and opens a session; reports each stage."""
    from tvm import rpc

    offer = request_device(endpoint)
    tell("connect", f"{offer.host}:{offer.port}")
    remote = rpc.connect(offer.host, offer.port, offer.match_key, session_seconds)
    opened = Session(remote, remote.device(device, 0))
    tell("run", "")
    return opened


def load_library(session: Session, library: str) -> None:
    """Loads a compiled net and frees it again."""
    session.virtual_machine(library)


def run_library(session: Session, library: str, inputs: Sequence[Array]) -> Array:
    """Runs a compiled function ``main`` once and returns its only output."""
    (output,) = run_net(session, library, inputs)
    return output


def run_net(session: Session, library: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Runs a compiled function ``main`` once and returns its outputs in order."""
    return _run_main(session, session.virtual_machine(library), inputs)


def run_on_images(session: Session, library: str, images: Array, batch: int = 1) -> tuple[Array, ...]:
    """Runs a compiled function ``main`` on one batch after another; each of its outputs, (images, ...).

    The last batch is filled up with its last image.
    """
    import numpy as np

    machine = session.virtual_machine(library)
    outputs = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        lacking = batch - len(chunk)
        given = np.concatenate([chunk, np.repeat(chunk[-1:], lacking, axis=0)]) if lacking else chunk
        outputs.append([output[: len(chunk)] for output in _run_main(session, machine, [given])])
    return tuple(np.concatenate(each) for each in zip(*outputs, strict=True))


def _run_main(session: Session, machine: Any, inputs: Sequence[Array]) -> tuple[Array, ...]:
    machine.set_input("main", *[session.put(array) for array in inputs])
    machine.invoke_stateful("main")
    given = machine.get_outputs("main")
    several = given if isinstance(given, list | tuple) else [given]
    return tuple(output.numpy() for output in several)


@dataclass(frozen=True)
class InputSpec:
    """A tensor that a compiled function takes: its shape, and its type by numpy's name."""

    shape: tuple[int, ...]
    dtype: str

    def random(self) -> Array:
        """Random values, the same in every call."""
        return random_tensor(self.shape, self.dtype)


def time_library(session: Session, library: str, image: InputSpec, repeats: Repeats) -> tuple[float, ...]:
    """Times a compiled function ``main`` on the device; milliseconds, one value per repeat."""
    module = on_random_image(session, library, image)
    if repeats.warmup:
        module.time_evaluator("timed", session.device, number=repeats.warmup)()
    evaluator = module.time_evaluator(
        "timed", session.device, number=1, repeat=repeats.repeats, min_repeat_ms=repeats.min_repeat_ms
    )
    return tuple(1e3 * seconds for seconds in evaluator().results)


def time_sustained(session: Session, library: str, image: InputSpec, seconds: float) -> tuple[float, ...]:
    """Runs a compiled function ``main`` on the device continuously; milliseconds, one value per second."""
    module = on_random_image(session, library, image)
    evaluator = module.time_evaluator("timed", session.device, number=1, repeat=1, min_repeat_ms=1000)
    values: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        values += [1e3 * value for value in evaluator().results]
    return tuple(values)


def on_random_image(session: Session, library: str, image: InputSpec) -> Any:
    """A module whose function ``timed`` runs the library's ``main`` on an image in device memory."""
    machine = session.virtual_machine(library)
    machine.save_function("main", "timed", session.put(image.random()), include_return=False)
    return machine.module


# The clock readings of each run: seconds and nanoseconds.
Readings = list[tuple[tuple[int, int], ...]]


def read_clocks(
    session: Session, library: str, image: InputSpec, functions: Sequence[str], runs: int, seconds: float
) -> list[Readings]:
    """Runs instrumented chains (see :mod:`tvmfbnet.compiler.instrument`) in turn; returns the readings of each.

    Each run directly follows another run of the same net, so that the caches are as in continuous use. A slow device
    does fewer than ``runs`` runs of each, but at least three, to stay within ``seconds``.
    """
    machine = session.virtual_machine(library)
    tensor = session.put(image.random())
    # The evaluator makes an untimed call first, on the device, without a round trip in between.
    evaluator = machine.module.time_evaluator("invoke_stateful", session.device, number=1, repeat=1)
    readings: list[Readings] = []
    for function in functions:
        machine.set_input(function, tensor)
        readings.append([])
        end = time.monotonic() + seconds / len(functions)
        while len(readings[-1]) < runs and (len(readings[-1]) < _MIN_RUNS or time.monotonic() < end):
            evaluator(function)
            clock = machine.get_outputs(function)[1].numpy()
            readings[-1].append(tuple((int(whole), int(nanoseconds)) for whole, nanoseconds in clock))
    return readings


def time_kernels(session: Session, jobs: Sequence[KernelJob], repeats: Repeats) -> list[KernelTiming]:
    """Times candidate kernels in one session; a failing candidate does not affect the others.

    Each timing is given as ``(job index, timing)`` as soon as it is available.
    """
    fill = session.remote.get_function("tvm.contrib.random.random_fill_for_measure")
    filled: dict[Any, Any] = {}
    timings = []
    for index, job in enumerate(jobs):
        timings.append(_time_kernel(session, job, repeats, fill, filled))
        session.give((index, timings[-1]))
    return timings


def _time_kernel(
    session: Session, job: KernelJob, repeats: Repeats, fill: Callable[[Any], None], filled: dict[Any, Any]
) -> KernelTiming:
    """Times one kernel on arguments of noise.

    It shares them with earlier kernels of the session, as filling takes as long as timing. But a kernel that is run
    only once has its own, apart from the pool: how long it takes depends on what it finds in the caches.
    """
    import tvm

    try:
        module = session.load(job.library)
        name, calls, shapes = "main", 1, list(job.arguments)
        if job.pool is not None:
            name, calls = ROTATE, job.pool.slices
            shapes[job.pool.argument] = (shapes[job.pool.argument][0], (job.pool.values,))
        arguments = []
        for index, (dtype, shape) in enumerate(shapes):
            is_shared = repeats.min_repeat_ms > 0 or (job.pool is not None and index == job.pool.argument)
            place = (index, dtype, shape)
            argument = filled.get(place) if is_shared else None
            if argument is None:
                argument = tvm.runtime.empty(shape, dtype, session.device)
                fill(argument)
            if is_shared:
                filled[place] = argument
            arguments.append(argument)
        evaluator = module.time_evaluator(
            name, session.device, number=1, repeat=repeats.repeats, min_repeat_ms=repeats.min_repeat_ms
        )
        timing = KernelTiming.of([1e3 * seconds / calls for seconds in evaluator(*arguments).results])
        return timing if job.check is None else _checked(session, module, job.check, timing, filled)
    except UploadError:
        raise  # not the kernel's fault
    except Exception as error:
        # Probe the device: if the session is gone, that is the fault, and the first error says most about it. Only an
        # allocation really asks the device; whether a CPU exists, or its queue is done, RPC answers by itself.
        try:
            tvm.runtime.empty((1,), "uint8", session.device)
        except Exception:
            raise error from None
        return KernelTiming(error=last_line(str(error)), kind="run")


def _checked(
    session: Session, module: Any, check: OutputCheck, timing: KernelTiming, uploaded: dict[Any, Any]
) -> KernelTiming:
    """The timing of a candidate whose output is close enough to what it must be; else a failed trial."""
    import numpy as np

    arguments = []
    for index, (dtype, shape) in enumerate(check.arguments):
        place = ("checked", index, dtype, shape)
        if place not in uploaded:  # candidates of one kernel share the data
            uploaded[place] = session.put(random_tensor(shape, dtype, index))
        arguments.append(uploaded[place])
    module[CHECKED](*arguments)
    error = relative_error(arguments[-1].numpy(), np.load(check.expected))
    if error <= check.limit:
        return timing
    return KernelTiming(error=f"its output is off by {error:.1e} relative (limit {check.limit:g})", kind="inexact")
