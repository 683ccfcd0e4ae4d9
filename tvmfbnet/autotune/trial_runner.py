"""Runs a round of trials: waits for its builds, then times them on a device. A device fault never blames a kernel.

A round is timed in one session, and each trial is reported as soon as it is timed, so that it is recorded before the
next one starts. If the session breaks, the remaining kernels are timed one by one on any free device; a kernel is given
up as crashing only if it breaks its session every time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvmfbnet.autotune.builder_pool import BuilderPool, BuildResult, Built
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.task_scheduler import TaskState
from tvmfbnet.errors import DeviceError
from tvmfbnet.rpc.remote import RemoteError, RemoteWorker, instructions_advice
from tvmfbnet.rpc.session import KernelJob, KernelTiming, OutputCheck, Repeats, time_kernels
from tvmfbnet.rpc.tracker import Endpoint, address_text, await_key, query_tracker
from tvmfbnet.targets.definition import ResolvedTarget

# A kernel that breaks this many sessions of its own, on devices that survive, is taken to be the cause.
_MAX_CRASHES = 3
# The same, whether or not the devices survive: a kernel may also take its device down.
_ATTEMPTS = 12
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Of the file of a candidate's expected output, beside its library.
_EXPECTED = ".npy"


@dataclass
class Activity:
    """Statistics of a run's rounds so far; thread-safe.

    Attributes:
        seconds: spent, by activity.
        trials: finished candidates.
        busy: devices timing right now.
        faults: sessions that broke or missed their deadline, by device and kind.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"build": 0.0, "measure": 0.0})
    trials: int = 0
    busy: int = 0
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, seconds: float) -> None:
        """Adds seconds to an activity."""
        with self._lock:
            self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def count(self, trials: int = 0, busy: int = 0) -> None:
        """Adds to the trials and busy devices."""
        with self._lock:
            self.trials, self.busy = self.trials + trials, self.busy + busy

    def note(self, fault: RemoteError) -> None:
        """Counts a fault of a device."""
        with self._lock:
            self.faults[fault.device or "no device", fault.happening] += 1

    def faults_by_device(self) -> dict[str, dict[str, int]]:
        """Counts of each device's faults by kind."""
        with self._lock:
            return {
                device: {what: count for (where, what), count in sorted(self.faults.items()) if where == device}
                for device in sorted({device for device, _ in self.faults})
            }


@dataclass
class OpenRound:
    """Candidates of one task in flight.

    Attributes:
        state: the task's.
        candidates: what is built and timed.
        best_before_ms: the task's fastest trial before; None where there was none.
        timings: of the candidates so far, by their place.
    """

    state: TaskState
    candidates: Sequence[ScheduleCandidate]
    best_before_ms: float | None
    timings: dict[int, KernelTiming] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Number of candidates without a timing yet."""
        return len(self.candidates) - len(self.timings)


@dataclass(frozen=True)
class News:
    """A message from a round's thread: one candidate's timing, or the end of the round, with its error if any."""

    told_by: OpenRound
    place: int = -1
    timing: KernelTiming | None = None
    error: BaseException | None = None


def start_worker(worker: RemoteWorker, workers: queue.Queue[RemoteWorker]) -> None:
    """Starts a worker while the first kernels are built, then makes it available."""
    with suppress(RemoteError):  # the first call starts it again, and reports the error
        worker.start()
    workers.put(worker)


class StoppedError(Exception):
    """The run ended before this round."""


# Called with a candidate's place in its round and its timing.
Told = Callable[[int, KernelTiming], None]


class RoundRunner:
    """Builds and times rounds; used by several threads at once, one device each.

    Args:
        target: its timing policy and timeouts apply.
        endpoint: where the devices are.
        pool: of builders.
        workers: one remote worker per device, shared by the threads.
        folder: for libraries before their upload.
        activity: collects the statistics.
    """

    def __init__(
        self,
        target: ResolvedTarget,
        endpoint: Endpoint,
        pool: BuilderPool,
        workers: queue.Queue[RemoteWorker],
        folder: Path,
        activity: Activity,
    ) -> None:
        self.target, self.endpoint, self.pool = target, endpoint, pool
        self._workers, self._folder, self._activity = workers, folder, activity
        policy = target.timing
        self._repeats = Repeats(policy.trial_repeats, policy.trial_min_ms)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stops the rounds in flight: nothing more is reported or retried."""
        self._stopped.set()

    def time(
        self, candidates: Sequence[ScheduleCandidate], builds: Sequence[Future[BuildResult] | None], told: Told
    ) -> None:
        """Waits for the builds, then times them; each candidate's result is reported as soon as it is known.

        Raises:
            DeviceError: no device came back.
            StoppedError: :meth:`stop` was called.
        """
        jobs: dict[int, KernelJob] = {}
        for place, (candidate, build) in enumerate(zip(candidates, builds, strict=True)):
            outcome = KernelTiming(error=candidate.error, kind="schedule") if build is None else self.pool.result(build)
            if isinstance(outcome, Built):
                self._activity.add("build", outcome.seconds)
                jobs[place] = self._job(candidate, outcome, f"{id(candidates):x}_{place}")
            else:
                self._tell(told, place, outcome)
        if jobs:
            self._time_on_a_device(jobs, told)

    def _tell(self, told: Told, place: int, timing: KernelTiming) -> None:
        if self._stopped.is_set():
            raise StoppedError  # any failure may be a consequence of the run ending
        self._activity.count(trials=1)
        told(place, timing)

    def _job(self, candidate: ScheduleCandidate, built: Built, name: str) -> KernelJob:
        path = self._folder / f"candidate{name}.so"
        path.write_bytes(built.library)
        return KernelJob(str(path), candidate.arguments, built.pool, self._check(candidate, path))

    def _check(self, candidate: ScheduleCandidate, library: Path) -> OutputCheck | None:
        """What the device compares the candidate's output with, in a file beside its library."""
        reference = candidate.reference
        if reference is None:
            return None
        expected = library.with_suffix(_EXPECTED)
        np.save(expected, reference.output)
        return OutputCheck(reference.arguments, str(expected), reference.limit)

    def _time_on_a_device(self, jobs: Mapping[int, KernelJob], told: Told) -> None:
        worker = self._workers.get()
        self._activity.count(busy=1)
        began = time.monotonic()
        try:
            untimed = dict(jobs)
            places = list(jobs)

            def given(timed: tuple[int, KernelTiming]) -> None:
                place = places[timed[0]]
                del untimed[place]
                self._tell(told, place, timed[1])

            with self.pool.making_way():
                if isinstance(self._attempt(list(jobs.values()), worker, given), RemoteError):
                    for place, job in untimed.items():
                        self._tell(told, place, self._time_alone(job, worker))
        finally:
            self._activity.count(busy=-1)
            self._workers.put(worker)
            self._activity.add("measure", time.monotonic() - began)
            for job in jobs.values():
                Path(job.library).unlink(missing_ok=True)
                Path(job.library).with_suffix(_EXPECTED).unlink(missing_ok=True)

    def _time_alone(self, job: KernelJob, worker: RemoteWorker) -> KernelTiming:
        crashes = attempts = 0
        while True:
            timings = self._attempt([job], worker)
            if not isinstance(timings, RemoteError):
                return timings[0]
            attempts += 1
            crashes += self._blames_kernel(timings)
            if attempts == _ATTEMPTS and timings.kind == "took no file":
                raise timings
            if crashes == _MAX_CRASHES and timings.illegal_instruction:
                raise DeviceError(f"{timings}; {instructions_advice(self.target)}")
            if crashes == _MAX_CRASHES or attempts == _ATTEMPTS:
                error = f"broke {attempts} sessions of its own: {timings}"
                return KernelTiming(error=error, kind="crash")
            time.sleep(min(_FIRST_PAUSE * 2**attempts, _LONGEST_PAUSE))  # a device that fails fast is free again fast

    def _blames_kernel(self, fault: RemoteError) -> bool:
        """Whether the device survived its session; if not, the device was at fault and not the kernel.

        A live device ends a hung kernel's session itself and reports it; a dead one gives no answer.
        """
        if fault.stage != "run" or fault.kind in ("no answer", "took no file"):
            return False
        try:
            servers = query_tracker(self.endpoint.host, self.endpoint.port).servers
        except DeviceError:
            return False
        return any(server["key"] == self.endpoint.key and address_text(server) == fault.device for server in servers)

    def _attempt(
        self, jobs: Sequence[KernelJob], worker: RemoteWorker, given: Callable[[Any], None] = lambda timed: None
    ) -> list[KernelTiming] | RemoteError:
        """Runs one session; if it breaks, waits for a device and returns the fault.

        Args:
            jobs: to time.
            worker: talks to the device.
            given: called with (job index, timing) immediately.

        Raises:
            DeviceError: no device came back in time.
            StoppedError: the run is ending, which may be why the session broke.
        """
        limits = self.target.timeouts
        seconds = limits.connect + limits.trial * len(jobs)
        try:
            return worker.call(time_kernels, jobs, self._repeats, seconds=seconds, given=given)
        except RemoteError as fault:
            if self._stopped.is_set():
                raise StoppedError from fault
            self._activity.note(fault)
            await_key(self.endpoint, limits.session)
            return fault
