"""Timing several nets on one device, pass by pass in turn: a slow spell of the device affects all of them alike.

As ``bench`` times one: the same timer, the same number of measurement passes, the same interval. Each pass is on disk
before the next one starts. A simulated device has no slow spells: there each net is timed as ``bench`` does it. A net
counts only if its outputs on the device equal PyTorch's, which is checked in the same session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.deploy.package import Package
from tvmfbnet.deploy.parity import check_outputs
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.profiling.device_timer import DeviceTimer, device_timer
from tvmfbnet.profiling.net_latency import PASSES, NetLatency, measure_latency
from tvmfbnet.profiling.net_passes import NetPasses
from tvmfbnet.progress import progress, step
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget


@dataclass(frozen=True)
class CompiledNet:
    """A net and what it was compiled into."""

    net: ArchNet
    package: Package


def time_in_turn(
    nets: Mapping[str, CompiledNet], target: ResolvedTarget, endpoint: Endpoint, passes: NetPasses
) -> dict[str, NetLatency]:
    """The latency of each net as measured.

    Args:
        nets: by a name that ``passes`` knows them by.
        target: that they were compiled for.
        endpoint: where its device is.
        passes: where passes are recorded; those of an earlier call are not repeated.

    Raises:
        ParityError: the outputs of one differ from PyTorch's.
        DeviceError: the device went away and did not come back.
    """
    with device_timer(target, endpoint) as timer:
        with step("checking parity with PyTorch on the device"):
            for compiled in nets.values():
                _check(compiled, timer)
        if target.is_simulated:
            return {name: measure_latency(*_timed(compiled), timer) for name, compiled in nets.items()}
        done = sum(min(PASSES, len(passes.of(name))) for name in nets)
        with progress("timing nets in turn", PASSES * len(nets), done=done) as reporter:
            for turn in range(PASSES):
                for name, compiled in nets.items():
                    if len(passes.of(name)) <= turn:
                        passes.add(name, timer.steadily(*_timed(compiled)))
                        reporter.advance()
        if not timer.fingerprint:  # an earlier call made all passes
            timer.overhead_ms()
        return {name: NetLatency(tuple(passes.of(name)), facts=timer.fingerprint) for name in nets}


def _timed(compiled: CompiledNet) -> tuple[Path, tuple[int, ...]]:
    return compiled.package.library, compiled.package.input_shape


def _check(compiled: CompiledNet, timer: DeviceTimer) -> None:
    """Compares outputs with PyTorch's, unless an earlier call did; the package remembers it."""
    package, dtype = compiled.package, timer.target.data_type
    if package.description.parity.verdict != "passed":
        parity = check_outputs(package, compiled.net, dtype, lambda image: timer.run(package.library, image))
        package.with_description(parity=parity)
