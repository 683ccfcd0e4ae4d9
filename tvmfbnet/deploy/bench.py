"""Latency of a package on the device, beside ONNX Runtime's for the same net on the same machine."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvmfbnet.deploy.package import Package
from tvmfbnet.errors import StorageError
from tvmfbnet.latency.measurement import summarise
from tvmfbnet.latency.verdict import Verdict
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.net_latency import NetLatency, measure_latency
from tvmfbnet.profiling.speed_probe import SpeedProbe
from tvmfbnet.progress import step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.provisioning.ready import require_ready
from tvmfbnet.rpc.session import last_line
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget


@dataclass(frozen=True)
class BenchResult:
    """The result of timing a package.

    Attributes:
        net: the latency as measured, pass by pass, with its conditions.
        onnxruntime_ms: ONNX Runtime's median; None if it cannot run on the device itself.
        sustained_ms: sustained latency: the median over the last quarter of ``sustained_seconds`` without a pause, with
            a warm device; None if it was not asked for.
        verdict: on the latency target; None without one.
        values: all of it as plain data.
    """

    net: NetLatency
    onnxruntime_ms: float | None
    sustained_ms: float | None
    verdict: Verdict | None
    values: dict[str, Any]

    @property
    def latency_ms(self) -> float:
        """The latency as measured: median of the passes' medians."""
        return self.net.interval.value


def bench_on_device(
    package: Package,
    target: ResolvedTarget,
    sustained_seconds: float = 0.0,
    latency_target_ms: float | None = None,
) -> BenchResult:
    """Connects to the target's device and times a package there; arguments as of :func:`bench_package`.

    Without ``latency_target_ms`` the package is judged by what it was made to meet.
    """
    require_ready(target)
    target_ms = package.description.latency_target_ms if latency_target_ms is None else latency_target_ms
    with connect_device(target) as endpoint:
        return bench_package(package, target, endpoint, sustained_seconds, target_ms)


def bench_package(
    package: Package,
    target: ResolvedTarget,
    endpoint: Endpoint,
    sustained_seconds: float = 0.0,
    latency_target_ms: float | None = None,
    probe: SpeedProbe | None = None,
) -> BenchResult:
    """Times the package on the device; on this machine's own CPU also ONNX Runtime, in turn, with as many threads.

    Args:
        package: what to time.
        target: the target, with its timing policy.
        endpoint: where the device is.
        sustained_seconds: afterwards, measure the sustained latency over this time; 0 for not at all.
        latency_target_ms: judge the latency by this; the net is timed again while the verdict is unclear.
        probe: measures the device's speed factor meanwhile.
    """
    other: list[float] = []

    def time_other() -> None:
        if target.transport.kind == "local":
            other.extend(time_onnxruntime(package.model, package.input_shape, target))

    with device_timer(target, endpoint) as timer:
        net = measure_latency(package.library, package.input_shape, timer, latency_target_ms, probe, between=time_other)
        lasting_ms: tuple[float, ...] = ()
        if sustained_seconds:
            with step(f"measuring sustained latency for {sustained_seconds:g} s"):
                lasting_ms = timer.sustained(package.library, package.input_shape, sustained_seconds)
    reference = float(summarise(other)["latency_ms"]) if other else None
    warm = statistics.median(lasting_ms[-math.ceil(len(lasting_ms) / 4) :]) if lasting_ms else None
    verdict = None if latency_target_ms is None else net.verdict(latency_target_ms)
    values = {
        **net.to_dict(target),
        "onnxruntime_ms": reference,
        "sustained_ms": warm,
        "sustained_seconds": sustained_seconds,
        **({} if verdict is None else verdict.to_dict()),
    }
    return BenchResult(net, reference, warm, verdict, values)


def time_onnxruntime(model: Path, shape: tuple[int, ...], target: ResolvedTarget) -> list[float]:
    """ONNX Runtime's latency on this machine by the target's timing policy: milliseconds of each repeat."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has its own exception types
        raise StorageError(
            f"ONNX Runtime cannot load {model} ({last_line(str(error))}); compile the net again"
        ) from error
    image = {"input": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    policy = target.timing
    for _ in range(max(policy.warmup, 1)):
        session.run(None, image)
    calls = 1
    while (elapsed := _time_calls(session, image, calls)) < policy.min_repeat_ms:
        calls = max(calls * 2, int(calls * policy.min_repeat_ms / max(elapsed, 1e-3)))
    return [_time_calls(session, image, calls) / calls for _ in range(policy.repeats)]


def _time_calls(session: object, image: dict[str, np.ndarray], calls: int) -> float:
    """Milliseconds for ``calls`` calls."""
    run = session.run  # type: ignore[attr-defined]
    started = time.perf_counter()
    for _ in range(calls):
        run(None, image)
    return 1e3 * (time.perf_counter() - started)
