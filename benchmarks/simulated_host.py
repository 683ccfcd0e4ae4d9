"""The simulator against a clock: schedules of kernels, timed on this machine and on a simulation of its core.

The same AVX2 kernels run natively, by the clock, and under the emulator, by the model of the core that llvm-mca has for
it and this machine's caches. Printed is how well the simulated times rank the schedules of each kernel, and of all.

    python benchmarks/simulated_host.py
    python benchmarks/simulated_host.py --schedules 5 --kernels 2 --mca znver3
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
from pathlib import Path

import numpy as np
from figures import report_figure
from scipy.stats import spearmanr
from simulating import simulated_host, time_candidates

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.plan import make_plan
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.files import write_json
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.session import Repeats
from tvmfbnet.simulation.cores import Cache, Core, Mca, Memory, Prefetch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import BLOCK
from tvmfbnet.targets.definition import ResolvedTarget, load_target, resolve

# The emulator has no AVX-512.
_CPU = "znver3"
_SIMULATED = Repeats(1, 0)
# Many single calls: the fastest is free of what else this machine does.
_NATIVE = Repeats(200, 0)
_BLOCKS = ("k3_e6", "k5_e1")
# Multiply-adds: larger kernels take minutes under emulation.
_LEAST, _MOST = 0.4e6, 12e6
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Cycles from a load to its use and bytes per cycle, by level: AMD, Software Optimization Guide of the Zen 4 and Zen 5
# microarchitectures. Ranks hardly depend on them.
_LATENCIES, _WIDTHS = (4, 14, 50), (64, 32, 16)


def this_core(mca_cpu: str, frequency_ghz: float) -> Core:
    """This machine's core: its caches as Linux tells them, LLVM's model of the pipeline."""
    caches = []
    for index in sorted(_CACHES.glob("index*")):
        told = {name: (index / name).read_text().strip() for name in ("type", "level", "size", "ways_of_associativity")}
        if told["type"] == "Instruction":
            continue
        ways, size_kb, level = int(told["ways_of_associativity"]), int(told["size"].rstrip("K")), int(told["level"])
        caches.append(
            Cache(size_kb=size_kb, ways=ways, latency_cycles=_LATENCIES[level - 1], bytes_per_cycle=_WIDTHS[level - 1])
        )
    return Core(
        name="host",
        description="this machine's core",
        device="this machine",
        emulated_cpu="EPYC",
        codegen_cpu=_CPU,
        frequency_ghz=frequency_ghz,
        mca=Mca(cpu=mca_cpu, triple="x86_64"),
        caches=caches,
        memory=Memory(latency_ns=110, gbps=20),
        prefetch=Prefetch(streams=16, degree=8),
        overlap=0.85,
    )


def multiply_adds(shape: KernelShape) -> int:
    """Products of one call."""
    return shape.height * shape.width * shape.channels * shape.kernel**2 * shape.reduction


def chosen_kernels(target: ResolvedTarget, count: int) -> list[tuple[Kernel, KernelShape]]:
    """Kernels of all kinds and sizes, evenly spread over the space's."""
    space = load_space("fbnet")
    parts = {layer.part(block) for layer in space.layers for block in layer.blocks}
    chosen = sorted({part for part in parts if part and part.part == BLOCK and part.block in _BLOCKS}, key=str)
    shapes = [(task.kernel, shape_of(task.kernel.mod)) for task in make_plan(space, target, chosen).tasks]
    fitting = [(kernel, shape) for kernel, shape in shapes if shape and _LEAST <= multiply_adds(shape) <= _MOST]
    return [fitting[index * len(fitting) // count] for index in range(count)]


def random_schedules(kernel: Kernel, shape: KernelShape, target: ResolvedTarget, count: int) -> list[ScheduleCandidate]:
    """Schedules drawn from all that the tuner may try, good and bad."""
    knobs = [knobs for knobs in all_knobs(shape, registers_of(target.for_tvm())) if not knobs.parallel]
    drawn = random.Random(0).sample(knobs, min(count, len(knobs)))
    return [ScheduleCandidate.of(apply_knobs(kernel.mod, shape, choice), choice) for choice in drawn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=int, default=10)
    parser.add_argument("--schedules", type=int, default=20, help="of each kernel")
    parser.add_argument("--mca", default="znver4", help="LLVM's model of this machine's core")
    parser.add_argument("--frequency-ghz", type=float, default=4.0, help="changes the scale, not the ranks")
    parser.add_argument("--out", type=Path, default=Path("simulated_host.json"))
    arguments = parser.parse_args()
    core = this_core(arguments.mca, arguments.frequency_ghz)
    base = load_target("host")
    native = resolve(base.model_copy(update={"tvm": {**base.tvm, "mcpu": _CPU}}))
    rows = []
    with simulated_host(core) as (simulated, simulator), connect_device(native) as device:
        for number, (kernel, shape) in enumerate(chosen_kernels(native, arguments.kernels)):
            candidates = random_schedules(kernel, shape, native, arguments.schedules)
            real = time_candidates(native, device, candidates, _NATIVE)
            model = time_candidates(simulated, simulator, candidates, _SIMULATED)
            timed = [
                (choice.knobs, clock.best_ms, virtual.best_ms)
                for choice, clock, virtual in zip(candidates, real, model, strict=True)
                if clock.best_ms is not None and virtual.best_ms is not None
            ]
            for knobs, measured_ms, simulated_ms in timed:
                rows.append(
                    {
                        "kernel": number,
                        "shape": str(shape),
                        "knobs": str(knobs),
                        "measured_ms": measured_ms,
                        "simulated_ms": simulated_ms,
                    }
                )
            write_json(arguments.out, rows)
            _print_kernel(shape, np.array([row[1:] for row in timed], dtype=float))
    both = np.array([(row["measured_ms"], row["simulated_ms"]) for row in rows])
    report_figure("all schedules, Spearman", float(spearmanr(both).statistic), "ratio", better="higher")
    print(f"{len(rows)} schedules of {arguments.kernels} kernels: Spearman {spearmanr(both).statistic:.3f}")


def _print_kernel(shape: KernelShape, times: np.ndarray) -> None:
    measured, simulated = times[:, 0], times[:, 1]
    best = measured[int(np.argmin(simulated))] / measured.min()
    print(
        f"{shape.kind:9} {shape.reduction:4} -> {shape.channels:4} at {shape.height:3}, kernel {shape.kernel}, stride "
        f"{shape.stride}: Spearman {spearmanr(measured, simulated).statistic:.3f}; simulated / measured "
        f"{np.median(simulated / measured):.2f}; slowest / fastest measured {measured.max() / measured.min():.1f}; the "
        f"fastest simulated takes {best:.2f} of the fastest measured",
        flush=True,
    )


if __name__ == "__main__":
    with as_command():
        main()
