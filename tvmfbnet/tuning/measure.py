"""Timing whole blocks, the stem and the head on the device, and writing each to the journal before the next."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import tvm
from onnx import TensorProto, helper
from tvm.ir import IRModule

from tvmfbnet.compiler.export import part_input_shape
from tvmfbnet.compiler.library import linker, save_library
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.compiler.repeating import constant_bytes
from tvmfbnet.devices.fingerprint import host_fingerprint
from tvmfbnet.devices.remote import RemoteWorker, Repeats, time_library, worker_for
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.timing import HonestTimer, HonestTiming, build_canary, run_canary
from tvmfbnet.devices.tracker import Endpoint
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import Context, Measurement, summarise
from tvmfbnet.progress import progress, say
from tvmfbnet.space.space import NetPart
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.plan import Plan
from tvmfbnet.tuning.trials import TrialLog

# How parts are timed: see weight_copies.
PROTOCOL = "rotating"
_MOST_COPIES = 16
_SMALL_WEIGHTS = 64 * 1024


def weight_copies(mod: IRModule, target: Target) -> int:
    """How many copies of a part's weights its timing goes around, so that they arrive as cold as in a net.

    Enough to fill the target's ``timing.rotate_mb``; one where the weights are so small that it makes no difference.
    """
    weights = constant_bytes(mod)
    if weights < _SMALL_WEIGHTS:
        return 1
    return min(_MOST_COPIES, max(1, math.ceil(target.timing.rotate_mb * 2**20 / weights)))


def context_of(target: Target) -> Context:
    """What this process's measurements on ``target`` may be mixed with."""
    return Context(target.name, tvm.__version__, target.tvm_json(), target.threads, target.dtype, target.layout)


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


def measure_parts(
    plan: Plan,
    parts: Sequence[NetPart],
    timer: DeviceTimer,
    database: TuningDatabase,
    journal: Journal,
    log: TrialLog,
) -> int:
    """Builds and times those of ``parts`` that the journal does not hold yet; returns how many were timed.

    A part whose kernels got more trials since it was timed counts as not held.
    """
    context = context_of(timer.target)
    held = {(m.part, m.trials) for m in journal.read() if m.context == context and m.protocol == PROTOCOL}
    compiled_for = tvm.target.Target(timer.target.tvm)
    trials = {part: sum(log.spent[k.key] for k in kernels_of(plan.parts[part], compiled_for)) for part in parts}
    due = [part for part in parts if (part, trials[part]) not in held]
    if not due:
        return 0
    overhead, unsteady = timer.overhead_ms(), 0
    with (
        progress("measuring blocks", len(parts), done=len(parts) - len(due)) as reporter,
        TemporaryDirectory() as folder,
    ):
        for part in due:
            copies = weight_copies(plan.parts[part], timer.target)
            executable = build(plan.parts[part], compiled_for, database.records, copies)
            library = save_library(executable, Path(folder) / f"{part.slug}.so", timer.target)
            timing = timer.steadily(library, part_input_shape(part))
            library.unlink()
            journal.append(_measurement(part, timing, copies, context, trials[part], overhead))
            unsteady += not timing.steady
            reporter.advance()
    if unsteady:
        say(f"warning: {unsteady} part(s) were timed while the device kept changing its speed")
    return len(due)


def _measurement(
    part: NetPart, timing: HonestTiming, copies: int, context: Context, trials: int, overhead: float
) -> Measurement:
    return Measurement.model_validate(
        {
            # One copy's share and the whole cost of a call: what the part alone, with weights as in a net, would take.
            **summarise([max(sample - overhead, 0.0) / copies + overhead for sample in timing.sample.repeats_ms]),
            "canary_ratio": timing.canary_ratio,
            "steady": timing.steady,
            "tries": timing.tries,
            "outliers": timing.sample.outliers,
            "target": context.target,
            "part": part,
            "trials": trials,
            "tvm_version": context.tvm_version,
            "tvm_target": context.tvm_target,
            "threads": context.threads,
            "dtype": context.dtype,
            "layout": context.layout,
            "protocol": PROTOCOL,
            "overhead_ms": overhead,
            "fingerprint": host_fingerprint() if context.target == "host" else {},
        }
    )
