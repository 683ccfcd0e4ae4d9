"""Latency of a package on the device, beside that of other runtimes for the same net on the same machine.

All are timed in turn, pass by pass. A runtime's time counts only if its output equals the package's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

from tvmfbnet.deploy.outputs import output_errors
from tvmfbnet.deploy.package import Package
from tvmfbnet.deploy.runtimes.registry import OURS, rivals
from tvmfbnet.deploy.runtimes.runtime import NetFiles, Runtime, RuntimeSession
from tvmfbnet.deploy.runtimes.tvm_runtime import TvmSession
from tvmfbnet.errors import ParityError, RuntimeUnavailableError, UserError
from tvmfbnet.latency.measurement import summarise
from tvmfbnet.latency.verdict import Interval, Verdict, median_interval
from tvmfbnet.profiling.device_energy import measure_energy, require_source
from tvmfbnet.profiling.energy import Energy
from tvmfbnet.profiling.net_latency import NetLatency, measure_latency
from tvmfbnet.profiling.speed_probe import SpeedProbe
from tvmfbnet.progress import say, step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.provisioning.ready import require_ready
from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget, Target


@dataclass(frozen=True)
class RuntimeLatency:
    """The latency of one net in one runtime.

    Attributes:
        name, title, version: of the runtime.
        latency_ms: median over all repeats.
        spread_ms: half the distance from the 10th to the 90th percentile of the repeats.
        interval: the median over passes and its bounds.
    """

    name: str
    title: str
    version: str
    latency_ms: float
    spread_ms: float
    interval: Interval

    def to_dict(self, package_ms: float) -> dict[str, Any]:
        """Plain data; ``ratio`` is the package's latency as a multiple of this one."""
        return {
            "name": self.name,
            "version": self.version,
            "latency_ms": self.latency_ms,
            "spread_ms": self.spread_ms,
            "interval": self.interval.to_dict(),
            "ratio": package_ms / self.latency_ms,
        }


@dataclass(frozen=True)
class BenchResult:
    """The result of timing a package.

    Attributes:
        net: the latency as measured, pass by pass, with its conditions.
        runtimes: the package's latency first, then those of the other runtimes.
        sustained_ms: sustained latency: the median over the last quarter of ``sustained_seconds`` without a pause, with
            a warm device; None if it was not asked for.
        verdict: on the latency target; None without one.
        values: all of it as plain data.
        energy: of one inference; None if it was not asked for.
    """

    net: NetLatency
    runtimes: tuple[RuntimeLatency, ...]
    sustained_ms: float | None
    verdict: Verdict | None
    values: dict[str, Any]
    energy: Energy | None = None

    @property
    def latency_ms(self) -> float:
        """The latency as measured: median of the passes' medians."""
        return self.net.interval.value

    @property
    def onnxruntime_ms(self) -> float | None:
        """ONNX Runtime's latency; None if it was not timed."""
        return _latency_of("onnxruntime", self.runtimes)


def _latency_of(name: str, runtimes: Sequence[RuntimeLatency]) -> float | None:
    return next((runtime.latency_ms for runtime in runtimes if runtime.name == name), None)


@dataclass(frozen=True)
class _Rival:
    """Another runtime with the net loaded, and its passes so far."""

    runtime: Runtime
    session: RuntimeSession
    passes_ms: list[tuple[float, ...]] = field(default_factory=list)

    def latency(self) -> RuntimeLatency:
        repeats = summarise([value for timed in self.passes_ms for value in timed])
        spread_ms = (float(repeats["p90_ms"]) - float(repeats["p10_ms"])) / 2
        interval = median_interval([statistics.median(timed) for timed in self.passes_ms])
        told = (self.runtime.name, self.runtime.title, self.runtime.version)
        return RuntimeLatency(*told, float(repeats["latency_ms"]), spread_ms, interval)


def bench_on_device(
    package: Package,
    target: ResolvedTarget,
    sustained_seconds: float = 0.0,
    latency_target_ms: float | None = None,
    runtimes: Sequence[str] | None = None,
    energy_source: str | None = None,
) -> BenchResult:
    """Connects to the target's device and times a package there; arguments as of :func:`bench_package`.

    Without ``latency_target_ms`` the package is judged by what it was made to meet.
    """
    require_sustainable(target, sustained_seconds)
    if energy_source is not None:
        energy_source = require_source(target, energy_source).name
    require_ready(target)
    target_ms = package.description.latency_target_ms if latency_target_ms is None else latency_target_ms
    with connect_device(target) as endpoint:
        asked: dict[str, Any] = {"runtimes": runtimes, "energy_source": energy_source}
        return bench_package(package, target, endpoint, sustained_seconds, target_ms, **asked)


def require_sustainable(target: Target, sustained_seconds: float) -> None:
    """Raises a UserError where sustained latency is asked for of a simulated device, which never gets warm."""
    if target.is_simulated and sustained_seconds:
        raise UserError(f"target {target.name} is simulated and never throttles: its latency is the sustained one, too")


def bench_package(
    package: Package,
    target: ResolvedTarget,
    endpoint: Endpoint,
    sustained_seconds: float = 0.0,
    latency_target_ms: float | None = None,
    probe: SpeedProbe | None = None,
    runtimes: Sequence[str] | None = None,
    energy_source: str | None = None,
) -> BenchResult:
    """Times the package on the device, and other runtimes in turn with it, with as many threads.

    Args:
        package: what to time.
        target: the target, with its timing policy.
        endpoint: where the device is.
        sustained_seconds: afterwards, measure the sustained latency over this time; 0 for not at all.
        latency_target_ms: judge the latency by this; the net is timed again while the verdict is unclear.
        probe: measures the device's speed factor meanwhile.
        runtimes: names of the other runtimes; None for the defaults that can run on the target.
        energy_source: afterwards, measure the energy of one inference as this source tells it; None for not at all.

    Raises:
        UserError: an unknown runtime.
        RuntimeUnavailableError: a runtime that was asked for cannot run the net.
        ParityError: its output differs from the package's.
    """
    asked = None if runtimes is None else tuple(runtimes)
    others = rivals(asked, target)
    described = package.description
    image = InputSpec(package.input_shape, described.input_dtype)
    files = NetFiles(package.library, package.model, image, described.output_names)
    with ExitStack() as stack:
        ours = stack.enter_context(closing(OURS.open(files, target, endpoint)))
        opened = _open_rivals(others, asked is not None, stack, ours, files, target, endpoint)

        def time_rivals() -> None:
            for rival in opened:
                rival.passes_ms.append(rival.session.time_pass())

        shape = package.input_shape
        net = measure_latency(package.library, shape, ours.timer, latency_target_ms, probe, between=time_rivals)
        lasting_ms: tuple[float, ...] = ()
        if sustained_seconds:
            with step(f"measuring sustained latency for {sustained_seconds:g} s"):
                lasting_ms = ours.timer.sustained(package.library, shape, sustained_seconds)
        energy = None
        if energy_source is not None:
            with step("measuring energy"):
                energy, _ = measure_energy(ours.timer, package.library, files.image, energy_source)
    package_ms = net.interval.value
    mine = RuntimeLatency(OURS.name, OURS.title, OURS.version, package_ms, net.spread_ms, net.interval)
    timed = (mine, *(rival.latency() for rival in opened))
    warm = statistics.median(lasting_ms[-math.ceil(len(lasting_ms) / 4) :]) if lasting_ms else None
    verdict = None if latency_target_ms is None else verdict_on(package, net, latency_target_ms)
    values = {
        **net.to_dict(target),
        "onnxruntime_ms": _latency_of("onnxruntime", timed),
        "runtimes": [latency.to_dict(package_ms) for latency in timed],
        "sustained_ms": warm,
        "sustained_seconds": sustained_seconds,
        **({} if energy is None else {"energy": energy.to_dict()}),
        **({} if verdict is None else verdict.to_dict()),
    }
    return BenchResult(net, timed, warm, verdict, values, energy)


def verdict_on(package: Package, net: NetLatency, target_ms: float) -> Verdict:
    """The verdict on a package's measured latency; says so where simulated latencies chose the net."""
    return replace(net.verdict(target_ms), chosen_on_simulated=package.description.on_simulated)


def _open_rivals(
    runtimes: Sequence[Runtime],
    asked_for: bool,
    stack: ExitStack,
    ours: TvmSession,
    files: NetFiles,
    target: ResolvedTarget,
    endpoint: Endpoint,
) -> list[_Rival]:
    """Opens the other runtimes and compares their outputs; one that fails and was not asked for is left out."""
    if not runtimes:
        return []
    opened, image = [], files.image.random()
    expected = ours.run(image)
    for runtime in runtimes:
        try:
            session = stack.enter_context(closing(runtime.open(files, target, endpoint)))
            error, limit = (
                max(output_errors([session.run(image)], [expected], files.output_names)),
                target.data_type.parity_limit,
            )
            if not error <= limit:
                raise ParityError(
                    f"{runtime.title}'s output differs from the package's by {error:.2e} relative (limit {limit:g})"
                )
        except (RuntimeUnavailableError, ParityError) as problem:
            if asked_for:
                raise
            say(f"note: {runtime.title} is not timed: {problem}")
        else:
            opened.append(_Rival(runtime, session))
    return opened
