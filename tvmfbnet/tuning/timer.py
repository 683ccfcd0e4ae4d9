"""Timing libraries on one endpoint by a target's policy: alone, in a loop, or part by part inside a net."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper

from tvmfbnet.compiler.library import linker, save_library
from tvmfbnet.compiler.lowering import build, lower
from tvmfbnet.devices.remote import RemoteWorker, Repeats, read_clocks, time_library, worker_for
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.timing import HonestTimer, HonestTiming, build_canary, run_canary
from tvmfbnet.devices.tracker import Endpoint
from tvmfbnet.latency.measurement import summarise


@dataclass(frozen=True)
class ChainTiming:
    """A chain of parts, timed in one go.

    Attributes:
        whole: the chain's latency a run, and how steady the device was.
        parts_ms: of each part one value in milliseconds a run.
    """

    whole: HonestTiming
    parts_ms: tuple[tuple[float, ...], ...]


class DeviceTimer:
    """Times libraries on one endpoint by the target's timing policy.

    Args:
        target: whose policy counts.
        worker: talks to the device.
        canary: library of the canary kernel (see :mod:`tvmfbnet.devices.timing`).
    """

    def __init__(self, target: Target, worker: RemoteWorker, canary: Path) -> None:
        self.target, self._worker, self._canary = target, worker, canary
        self._watch = HonestTimer(
            self._canary_ms,
            target.timing.drift_limit,
            target.timing.cooldown_seconds,
            target.timing.rest_seconds,
        )

    def _canary_ms(self) -> float:
        limits = self.target.timeouts
        _, repeats = self._worker.call(run_canary, str(self._canary), seconds=limits.connect + limits.session)
        return statistics.median(repeats)

    def steadily(self, library: Path, shape: tuple[int, ...]) -> HonestTiming:
        """As :meth:`time`, between two canaries, again after a rest where the device changed its speed meanwhile."""
        return self._watch.measure(lambda: self.time(library, shape))

    def time(self, library: Path, shape: tuple[int, ...]) -> tuple[float, ...]:
        """Latency of the library's ``main``, one value in milliseconds a repeat."""
        policy, limits = self.target.timing, self.target.timeouts
        repeats = Repeats(policy.repeats, policy.min_repeat_ms, policy.warmup)
        return self._worker.call(time_library, str(library), shape, repeats, seconds=limits.connect + limits.session)

    def chain(self, library: Path, shape: tuple[int, ...]) -> ChainTiming:
        """Times a library that :func:`tvmfbnet.compiler.chaining.chain_parts` made, part by part, between canaries."""
        limits, runs = self.target.timeouts, self.target.timing.chain_runs
        readings: list[tuple[tuple[int, ...], ...]] = []

        def total() -> Sequence[float]:
            seconds = limits.connect + limits.session
            readings[:] = self._worker.call(read_clocks, str(library), shape, runs, seconds=seconds)
            return [sum(parts) for parts in part_latencies(readings)]

        whole = self._watch.measure(total)
        return ChainTiming(whole, tuple(zip(*part_latencies(readings), strict=True)))

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
        compiled_for = tvm.target.Target(self.target.tvm)
        with TemporaryDirectory() as folder:
            library = save_library(
                build(lower(model, compiled_for), compiled_for, None), Path(folder) / "call.so", self.target
            )
            return float(summarise(self.time(library, (1, 1)))["latency_ms"])


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
def device_timer(target: Target, endpoint: Endpoint) -> Iterator[DeviceTimer]:
    """A timer whose worker ends with the block."""
    with (
        TemporaryDirectory() as folder,
        worker_for(target, endpoint) as worker,
    ):
        canary = Path(folder) / "canary.so"
        build_canary(target, canary, linker(target))
        yield DeviceTimer(target, worker, canary)
