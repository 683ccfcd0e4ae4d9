"""Timing libraries on one endpoint by a target's policy: alone, in a loop, or part by part inside a net."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tvmfbnet.compiler.instrument import net_function
from tvmfbnet.compiler.library import linker, save_library
from tvmfbnet.compiler.lowering import build, lower
from tvmfbnet.errors import DeviceError, UserError
from tvmfbnet.latency.measurement import summarise
from tvmfbnet.profiling.canary import HonestTimer, HonestTiming, Watched, build_canary, require_times, watch
from tvmfbnet.progress import say, step
from tvmfbnet.rpc.remote import RemoteWorker, worker_for
from tvmfbnet.rpc.session import Repeats, read_clocks, time_library, time_sustained
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget

# The longest session that a device server grants where it does not say: the default of --max-session.
SESSION_CAP_SECONDS = 3600
# Among so many single runs some escape what else goes on at the device.
_SINGLE_RUNS = 30


@dataclass(frozen=True)
class ChainTiming:
    """Chains of parts, timed in one go.

    Attributes:
        whole: how steady the device was; its sample is the latency of all chains together, a value a run.
        nets_ms: of each chain, of each of its parts, one value in milliseconds a run.
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
        target: whose policy counts.
        worker: talks to the device.
        canary: library of the canary kernel (see :mod:`tvmfbnet.profiling.canary`).
    """

    def __init__(self, target: ResolvedTarget, worker: RemoteWorker, canary: Path) -> None:
        self.target, self._worker, self._canary = target, worker, canary
        self._fingerprint: dict[str, Any] = {}
        policy = target.timing
        self._watch = HonestTimer(policy.drift_limit, policy.cooldown_seconds, policy.rest_seconds)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the last measurement's device told about itself, frequency and temperature before and after included."""
        return self._fingerprint

    def _watched(self, job: Callable[..., Any], *arguments: Any) -> Watched:
        limits = self.target.timeouts
        seconds = limits.connect + limits.session
        found: Watched = self._worker.persist(watch, str(self._canary), job, *arguments, seconds=seconds)
        self._fingerprint = {**found.facts, "address": self._worker.address}
        return found

    @property
    def _repeats(self) -> Repeats:
        policy = self.target.timing
        return Repeats(policy.repeats, policy.min_repeat_ms, policy.warmup)

    def steadily(self, library: Path, shape: tuple[int, ...]) -> HonestTiming:
        """As :meth:`time`, between two canaries, again after a rest where the device changed its speed meanwhile."""

        def time_it() -> tuple[str, Sequence[float], float, float]:
            found = self._watched(time_library, str(library), shape, self._repeats)
            return self._worker.address, found.value, found.before_ms, found.after_ms

        return self._watch.measure(time_it)

    def time(self, library: Path, shape: tuple[int, ...]) -> tuple[float, ...]:
        """Latency of the library's ``main``, one value in milliseconds a repeat."""
        repeats_ms: tuple[float, ...] = self._watched(time_library, str(library), shape, self._repeats).value
        require_times(self._worker.address, repeats_ms)
        return repeats_ms

    def single_runs(self, library: Path, shape: tuple[int, ...]) -> tuple[float, ...]:
        """Latency of single runs of the library's ``main``, one value in milliseconds each."""
        once = Repeats(_SINGLE_RUNS, 0, self.target.timing.warmup)
        runs_ms: tuple[float, ...] = self._watched(time_library, str(library), shape, once).value
        require_times(self._worker.address, runs_ms)
        return runs_ms

    def chains(self, library: Path, shape: tuple[int, ...], nets: int, runs: int) -> ChainTiming:
        """Times the chains of a library of :func:`tvmfbnet.compiler.instrument.chain_nets`, part by part.

        Args:
            library: the file.
            shape: of the chains' input.
            nets: how many chains there are.
            runs: of each; fewer where a session would not last.
        """
        functions = [net_function(number) for number in range(nets)]
        seconds = 0.5 * self.target.timeouts.session  # the rest is for loading and the canary
        latencies: list[list[tuple[float, ...]]] = []

        def time_it() -> tuple[str, Sequence[float], float, float]:
            found = self._watched(read_clocks, str(library), shape, functions, runs, seconds)
            for readings in found.value:
                require_clock(self._worker.address, readings)
            latencies[:] = [part_latencies(readings) for readings in found.value]
            totals = [sum(map(sum, run)) for run in zip(*latencies, strict=False)]
            return self._worker.address, totals, found.before_ms, found.after_ms

        whole = self._watch.measure(time_it)
        return ChainTiming(whole, tuple(tuple(zip(*net, strict=True)) for net in latencies))

    def sustained(self, library: Path, shape: tuple[int, ...], seconds: float) -> tuple[float, ...]:
        """Latency while the device runs the library's ``main`` without a pause, one value in milliseconds a second.

        What lasts longer than a session may is done in several, one right after the other.

        Raises:
            UserError: the target's ``timeouts.session`` leaves no session for it.
        """
        limits, given = self.target.timeouts, self._worker
        told = str(self._fingerprint.get("max_session_seconds", ""))
        cap = int(told) if told.isdecimal() else SESSION_CAP_SECONDS
        lengths = sustained_sessions(seconds, limits.session, cap)
        if len(lengths) > 1:
            say(f"note: the device ends a session after {cap} s; this takes {len(lengths)} of them")
        values: list[float] = []
        for length in lengths:
            session = limits.session + math.ceil(2 * length)
            with RemoteWorker(given.endpoint, given.device, session, given.connect_seconds) as worker:
                lasting = worker.persist(time_sustained, str(library), shape, length, seconds=float(session))
                require_times(worker.address, lasting)
                values += lasting
        return tuple(values)

    def overhead_ms(self) -> float:
        """The device's cost of one call with nothing to compute."""
        shape = [1, 1]
        graph = helper.make_graph(
            [helper.make_node("Identity", ["input"], ["output"])],
            "call",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        )
        model: onnx.ModelProto = helper.make_model(graph)
        compiled_for = self.target.for_tvm()
        with scratch_folder() as folder:
            library = save_library(
                build(lower(model, compiled_for), compiled_for, None), folder / "call.so", self.target
            )
            repeats_ms = self._watched(time_library, str(library), (1, 1), self._repeats).value
            require_times(self._worker.address, repeats_ms, may_be_zero=True)
            return float(summarise(repeats_ms)["latency_ms"])


def sustained_sessions(seconds: float, session_seconds: int, cap: int = SESSION_CAP_SECONDS) -> list[float]:
    """Into which sessions a run without a pause is divided, in seconds each; a session may last twice as long and more.

    Args:
        seconds: of the run.
        session_seconds: the target's own deadline for a session.
        cap: the longest session that the device's server grants.

    Raises:
        UserError: the deadline is as long as the longest session already.
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
    """:class:`DeviceError` where a device's clock ran backwards within a run, or stood still for all of it.

    Args:
        device: its address.
        readings: a run each: (parts + 2, 2) seconds and nanoseconds.
    """
    for run in readings:
        steps = np.diff(np.asarray(run, dtype=np.int64) @ np.array([10**9, 1]))
        if (steps < 0).any() or not steps.any():
            what = "backwards" if (steps < 0).any() else "not at all"
            raise DeviceError(f"device {device or 'without an address'}: its clock ran {what} while a net was timed")


def part_latencies(readings: Sequence[Sequence[Sequence[int]]]) -> list[tuple[float, ...]]:
    """Milliseconds of each part in each run from the clock's readings.

    Args:
        readings: a run each: (parts + 2, 2) seconds and nanoseconds, the last two taken one right after the other.
            What that takes is subtracted from every part, its median over the runs.
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
        canary = folder / "canary.so"
        with step("compiling the canary kernel"):
            build_canary(target, canary, linker(target))
        yield DeviceTimer(target, worker, canary)
