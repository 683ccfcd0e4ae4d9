"""Exact times of six kernels on a simulated core, and one digest of them, to compare between machines.

    python benchmarks/same_bits.py --core a72

The same sources, LLVM and compilers give the same digits on every machine; docs/results/simulated-tuning.md has those
of one.
"""

from __future__ import annotations

import argparse
import hashlib

from figures import report_figure
from published_blocks import blocks_of
from simulated_devices import candidate
from simulating import simulated_device, time_candidates

from tvmfbnet.autotune.plan import make_plan
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.errors import DeviceError
from tvmfbnet.rpc.session import Repeats
from tvmfbnet.simulation.cores import Core, load_core
from tvmfbnet.space.registry import load_space

_BLOCKS, _PARTS, _KERNELS = ("k3_e3", "k5_e1_g2"), 3, 6


def times_ms(core: Core, count: int = _KERNELS) -> list[tuple[str, float]]:
    """Name and milliseconds of the first schedule of the first ``count`` kernels of some of `fbnet_mini`'s blocks.

    Raises:
        DeviceError: a kernel failed.
    """
    space = load_space("fbnet_mini")
    parts = [part for part in blocks_of(space) if part.block in _BLOCKS][:_PARTS]
    with simulated_device(core) as (target, endpoint):
        kernels = [task.kernel for task in make_plan(space, target, parts).tasks[:count]]
        schedules = [schedule for kernel in kernels if (schedule := candidate(kernel, target, 0)) is not None]
        timings = time_candidates(target, endpoint, schedules, Repeats(1, 0))
    times = []
    for kernel, timing in zip(kernels, timings, strict=True):
        if timing.best_ms is None:
            raise DeviceError(f"kernel {kernel.key} failed: {timing.error}")
        times.append((kernel.key, timing.best_ms))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", required=True)
    times = times_ms(load_core(parser.parse_args().core))
    total = sum(milliseconds for _, milliseconds in times)
    report_figure("six kernels together, simulated", total, "ms", better="lower", exact=True)
    for name, milliseconds in times:
        print(f"{name} {milliseconds!r}")
    print(hashlib.sha256(repr(times).encode()).hexdigest()[:12])


if __name__ == "__main__":
    with as_command():
        main()
