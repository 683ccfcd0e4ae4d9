"""Latency of a package on the device, and of the same net under ONNX Runtime on the same machine, side by side."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvmfbnet.deploy.package import Package
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.tracker import Endpoint
from tvmfbnet.latency.measurement import summarise
from tvmfbnet.tuning.timer import device_timer

# The two are timed in turn this often, so that a machine that speeds up or slows down does so for both.
_TURNS = 3


@dataclass(frozen=True)
class BenchResult:
    """Milliseconds: median and half the distance of the 10th to the 90th percentile, and ONNX Runtime's median.

    ``onnxruntime_ms`` is None where ONNX Runtime cannot run on the device itself.

    ``sustained_ms`` is the median over the last quarter of ``sustained_seconds`` without a pause, when the device is
    warm; None where that was not asked for. ``device`` is what the device told about itself.
    """

    latency_ms: float
    spread_ms: float
    onnxruntime_ms: float | None
    threads: int
    sustained_ms: float | None = None
    sustained_seconds: float = 0.0
    device: dict[str, Any] = field(default_factory=dict)


def bench_package(package: Package, target: Target, endpoint: Endpoint, sustained_seconds: float = 0.0) -> BenchResult:
    """Times the package on the device; on this machine's own CPU also ONNX Runtime, in turn, with as many threads.

    Args:
        package: what to time.
        target: whose policy counts.
        endpoint: where the device is.
        sustained_seconds: afterwards run without a pause for so long, and say what the latency is in the end.
    """
    device: list[float] = []
    other: list[float] = []
    with device_timer(target, endpoint) as timer:
        for _ in range(_TURNS):
            device += timer.time(package.library, package.input_shape)
            if target.transport.kind == "local":
                other += time_onnxruntime(package.model, package.input_shape, target)
        lasting: tuple[float, ...] = ()
        if sustained_seconds:
            lasting = timer.sustained(package.library, package.input_shape, sustained_seconds)
        facts = timer.fingerprint
    figures = summarise(device)
    spread = (float(figures["p90_ms"]) - float(figures["p10_ms"])) / 2
    reference = float(summarise(other)["latency_ms"]) if other else None
    warm = statistics.median(lasting[-math.ceil(len(lasting) / 4) :]) if lasting else None
    latency_ms = float(figures["latency_ms"])
    return BenchResult(latency_ms, spread, reference, target.threads, warm, sustained_seconds, facts)


def time_onnxruntime(model: Path, shape: tuple[int, ...], target: Target) -> list[float]:
    """ONNX Runtime's latency here by the target's timing policy, one value in milliseconds a repeat."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
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
