"""Timing libraries on one endpoint by a target's policy: alone, in a loop, or part by part inside a net."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from tvmfbnet.compiler.instrument import net_function
from tvmfbnet.compiler.library import linker, save_library
from tvmfbnet.compiler.lowering import build, lower
from tvmfbnet.errors import DeviceError, UserError
from tvmfbnet.latency.measurement import summarise
from tvmfbnet.latency.origin import MEASURED, SIMULATED, TimedSource
from tvmfbnet.profiling.canary import HonestTimer, HonestTiming, Watched, build_canary, observe, require_times, watch
from tvmfbnet.progress import say, step
from tvmfbnet.rpc.remote import RemoteWorker, worker_for
from tvmfbnet.rpc.session import (
    InputSpec,
    Repeats,
    load_library,
    read_clocks,
    run_net,
    time_library,
    time_sustained,
)
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget

# The longest session that a device server grants where it does not say: the default of --max-session.
SESSION_CAP_SECONDS = 3600
# Enough single runs that some escape background load on the device.
_SINGLE_RUNS = 30


@dataclass(frozen=True)
class ChainTiming:
    """Chains of parts, timed in one pass.

    Attributes:
        whole: how steady the device was; its sample is the latency of all chains together, one value per run.
        nets_ms: for each chain and each of its parts, milliseconds of every run.
    """

    whole: HonestTiming
    nets_ms: tuple[tuple[tuple[float, ...], ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"whole": self.whole.to_dict(), "nets_ms": self.nets_ms}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ChainTiming:
        """What :meth:`to_dict` gave; KeyError, TypeError or ValueError on other data."""
        nets_ms = tuple(tuple(tuple(float(ms) for ms in part) for part in net) for net in value["nets_ms"])
        return cls(HonestTiming.from_dict(value["whole"]), nets_ms)


class DeviceTimer:
    """Times libraries on one endpoint by the target's timing policy.

    Args:
        target: the target, with its timing policy.
        worker: talks to the device.
        canary: library of the canary kernel (see :mod:`tvmfbnet.profiling.canary`); None for a simulated device.
    """

    def __init__(self, target: ResolvedTarget, worker: RemoteWorker, canary: Path | None) -> None:
        self.target, self._worker, self._canary = target, worker, canary
        self._fingerprint: dict[str, Any] = {}
        policy = target.timing
        self._watch = HonestTimer(policy.drift_limit, policy.cooldown_seconds, policy.rest_seconds)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the last measurement's device reported, with frequency and temperature before and after."""
        return self._fingerprint

    @property
    def source(self) -> TimedSource:
        """What its timings are: ``simulated`` where the target's clock is a model, or its device says that it is."""
        return SIMULATED if self.target.is_simulated or self._fingerprint.get("simulated") else MEASURED

    def _watched(self, job: Callable[..., Any], *arguments: Any) -> Watched:
        limits = self.target.timeouts
        seconds = limits.connect + limits.session
        watching = (observe,) if self._canary is None else (watch, str(self._canary))
        watched: Watched = self._worker.persist(*watching, job, *arguments, seconds=seconds)
        self._fingerprint = {**watched.facts, "address": self._worker.address}
        return watched

    @property
    def _repeats(self) -> Repeats:
        policy = self.target.timing
        return Repeats(policy.repeats, policy.min_repeat_ms, policy.warmup)

    def _image(self, shape: tuple[int, ...], dtype: str | None = None) -> InputSpec:
        return InputSpec(shape, self.target.data_type.boundary if dtype is None else dtype)

    def steadily(self, library: Path, shape: tuple[int, ...], dtype: str | None = None) -> HonestTiming:
        """As :meth:`time`, between two canaries; repeated after a cooldown if the device drifted meanwhile."""
        image = self._image(shape, dtype)

        def time_it() -> tuple[str, Sequence[float], float, float]:
            watched = self._watched(time_library, str(library), image, self._repeats)
            return self._worker.address, watched.value, watched.before_ms, watched.after_ms

        return self._watch.measure(time_it)

    def run(self, library: Path, image: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """The outputs of the library's ``main`` for one image, in order."""
        limits = self.target.timeouts
        seconds = limits.connect + limits.session
        return self._worker.persist(run_net, str(library), [image], seconds=seconds)

    def check(self, library: Path) -> None:
        """Loads a library on the device; :class:`RemoteError` if that fails."""
        limits = self.target.timeouts
        self._worker.call(load_library, str(library), seconds=limits.connect + limits.session)

    def time(self, library: Path, shape: tuple[int, ...], dtype: str | None = None) -> tuple[float, ...]:
        """Latency of the library's ``main``: milliseconds of each repeat.

        Args:
            library: the file.
            shape: of the input.
            dtype: name of its type; by default that of a whole net's input in the target's dtype.
        """
        image = self._image(shape, dtype)
        repeats_ms: tuple[float, ...] = self._watched(time_library, str(library), image, self._repeats).value
        require_times(self._worker.address, repeats_ms)
        return repeats_ms

    def single_runs(self, library: Path, shape: tuple[int, ...]) -> tuple[float, ...]:
        """Latency of single runs of the library's ``main``, in milliseconds."""
        once = Repeats(_SINGLE_RUNS, 0, self.target.timing.warmup)
        runs_ms: tuple[float, ...] = self._watched(time_library, str(library), self._image(shape), once).value
        require_times(self._worker.address, runs_ms)
        return runs_ms

    def chains(self, library: Path, shape: tuple[int, ...], nets: int, runs: int) -> ChainTiming:
        """Times the chains of a library of :func:`tvmfbnet.compiler.instrument.chain_nets`, part by part.

        Args:
            library: the file.
            shape: of the chains' input.
            nets: number of chains.
            runs: of each; fewer if a session is too short for them.
        """
        functions = [net_function(number) for number in range(nets)]
        seconds = 0.5 * self.target.timeouts.session  # the rest is for loading and the canary
        latencies: list[list[tuple[float, ...]]] = []

        def time_it() -> tuple[str, Sequence[float], float, float]:
            watched = self._watched(read_clocks, str(library), self._image(shape), functions, runs, seconds)
            for readings in watched.value:
                require_clock(self._worker.address, readings)
            latencies[:] = [part_latencies(readings) for readings in watched.value]
            totals = [sum(map(sum, run)) for run in zip(*latencies, strict=False)]
            return self._worker.address, totals, watched.before_ms, watched.after_ms

        whole = self._watch.measure(time_it)
        return ChainTiming(whole, tuple(tuple(zip(*net, strict=True)) for net in latencies))

    def sustained(self, library: Path, shape: tuple[int, ...], seconds: float) -> tuple[float, ...]:
        """Sustained latency: the library's ``main`` runs without a pause; one value in milliseconds per second.

        A run longer than a session may last is split into several, one right after the other.

        Raises:
            UserError: the target's ``timeouts.session`` leaves no time for a session.
        """
        limits, given = self.target.timeouts, self._worker
        reported_cap = str(self._fingerprint.get("max_session_seconds", ""))
        cap = int(reported_cap) if reported_cap.isdecimal() else SESSION_CAP_SECONDS
        lengths = sustained_sessions(seconds, limits.session, cap)
        if len(lengths) > 1:
            say(f"note: the device ends a session after {cap} s; this takes {len(lengths)} of them")
        image, values = self._image(shape), list[float]()
        for length in lengths:
            session = limits.session + math.ceil(2 * length)
            with RemoteWorker(given.endpoint, given.device, session, given.connect_seconds) as worker:
                latencies = worker.persist(time_sustained, str(library), image, length, seconds=float(session))
                require_times(worker.address, latencies)
                values += latencies
        return tuple(values)

    def long_job(self, job: Callable[..., Any], *arguments: Any, lasting: float) -> Any:
        """The result of a job that takes ``lasting`` seconds on the device; no canary runs beside it."""
        limits, given = self.target.timeouts, self._worker
        if 2 * lasting < limits.session:
            return given.persist(job, *arguments, seconds=limits.connect + limits.session)
        session = limits.session + math.ceil(lasting)
        with RemoteWorker(given.endpoint, given.device, session, given.connect_seconds, given.demands) as worker:
            return worker.persist(job, *arguments, seconds=limits.connect + session)

    @property
    def empty_image(self) -> InputSpec:
        """The input of an empty call."""
        return self._image((1, 1))

    def empty_call(self, folder: Path) -> Path:
        """A library with nothing to compute, in a folder."""
        image = self.empty_image
        element = helper.np_dtype_to_tensor_dtype(np.dtype(image.dtype))
        graph = helper.make_graph(
            [helper.make_node("Identity", ["input"], ["output"])],
            "call",
            [helper.make_tensor_value_info("input", element, image.shape)],
            [helper.make_tensor_value_info("output", element, image.shape)],
        )
        model: onnx.ModelProto = helper.make_model(graph)
        compiled_for = self.target.for_tvm()
        return save_library(build(lower(model, compiled_for), compiled_for, None), folder / "call.so", self.target)

    def overhead_ms(self) -> float:
        """The device's cost of one call with nothing to compute."""
        with scratch_folder() as folder:
            library = self.empty_call(folder)
            repeats_ms = self._watched(time_library, str(library), self.empty_image, self._repeats).value
            require_times(self._worker.address, repeats_ms, may_be_zero=True)
            return float(summarise(repeats_ms)["latency_ms"])


def sustained_sessions(seconds: float, session_seconds: int, cap: int = SESSION_CAP_SECONDS) -> list[float]:
    """Splits a sustained run into sessions: seconds of each. A session's deadline is more than twice its length.

    Args:
        seconds: length of the run.
        session_seconds: the target's deadline for a session.
        cap: the longest session that the device's server grants.

    Raises:
        UserError: the deadline alone is as long as the longest session.
    """
    longest = (cap - session_seconds) / 2
    if longest < 1:
        raise UserError(
            f"timeouts.session of the target is {session_seconds} s, and the device ends every session after {cap} s: "
            "lower it, or start the server with a larger --max-session, to run without a pause"
        )
    count = math.ceil(seconds / longest)
    return [seconds / count] * count


def require_clock(device: str, readings: Sequence[Sequence[Sequence[int]]]) -> None:
    """Raises :class:`DeviceError` if a device's clock ran backwards within a run, or stood still throughout.

    Args:
        device: its address.
        readings: of each run: (parts + 2, 2) seconds and nanoseconds.
    """
    for run in readings:
        steps = np.diff(np.asarray(run, dtype=np.int64) @ np.array([10**9, 1]))
        if (steps < 0).any() or not steps.any():
            what = "backwards" if (steps < 0).any() else "not at all"
            raise DeviceError(f"device {device or 'without an address'}: its clock ran {what} while a net was timed")


def part_latencies(readings: Sequence[Sequence[Sequence[int]]]) -> list[tuple[float, ...]]:
    """Milliseconds of each part in each run from the clock's readings.

    Args:
        readings: of each run: (parts + 2, 2) seconds and nanoseconds, the last two taken back to back. Their
            difference, the cost of a reading (median over runs), is subtracted from every part.
    """
    if not readings:
        return []
    clock = np.asarray(readings, dtype=np.int64)
    nanoseconds = clock[:, :, 0] * 10**9 + clock[:, :, 1]
    steps = np.diff(nanoseconds, axis=1) / 1e6
    parts = np.maximum(steps[:, :-1] - np.median(steps[:, -1]), 0.0)
    return [tuple(float(value) for value in row) for row in parts]


@contextmanager
def device_timer(target: ResolvedTarget, endpoint: Endpoint) -> Iterator[DeviceTimer]:
    """A timer whose worker ends with the block."""
    with (
        scratch_folder() as folder,
        worker_for(target, endpoint) as worker,
    ):
        canary = None
        if not target.is_simulated:
            canary = folder / "canary.so"
            with step("compiling the canary kernel"):
                build_canary(target, canary, linker(target))
        yield DeviceTimer(target, worker, canary)
