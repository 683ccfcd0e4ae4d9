"""Timing several packages on one device, pass by pass in turn: a slow spell of the device affects all of them alike.

As ``bench`` times one: the same timer, the same number of measurement passes, the same interval. Each pass is on disk
before the next one starts. A simulated device has no slow spells: there each package is timed as ``bench`` does it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tvmfbnet.deploy.package import Package
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.net_latency import PASSES, NetLatency, measure_latency
from tvmfbnet.profiling.net_passes import NetPasses
from tvmfbnet.progress import progress
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget


def time_in_turn(
    packages: Mapping[str, Package], target: ResolvedTarget, endpoint: Endpoint, passes: NetPasses
) -> dict[str, NetLatency]:
    """The latency of each package as measured.

    Args:
        packages: by a name that ``passes`` knows them by.
        target: that they were compiled for.
        endpoint: where its device is.
        passes: where passes are recorded; those of an earlier call are not repeated.

    Raises:
        DeviceError: the device went away and did not come back.
    """
    with device_timer(target, endpoint) as timer:
        if getattr(target, "is_simulated", False):
            return {
                name: measure_latency(package.library, package.input_shape, timer) for name, package in packages.items()
            }
        done = sum(min(PASSES, len(passes.of(name))) for name in packages)
        with progress("timing nets in turn", PASSES * len(packages), done=done) as reporter:
            for turn in range(PASSES):
                for name, package in packages.items():
                    if len(passes.of(name)) <= turn:
                        passes.add(name, timer.steadily(package.library, package.input_shape))
                        reporter.advance()
        if not timer.fingerprint:  # an earlier call made all passes
            timer.overhead_ms()
        return {name: NetLatency(tuple(passes.of(name)), facts=timer.fingerprint) for name in packages}
