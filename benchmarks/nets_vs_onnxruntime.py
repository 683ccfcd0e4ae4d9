"""Whole nets against ONNX Runtime on this machine, one thread each, call by call in turn.

    python benchmarks/nets_vs_onnxruntime.py fbnet_c fbnet_a --space fbnet [--tuning-logs DIR] [--turns 40]

Nets have random weights and are compiled from the tuning database alone; nothing is tuned here. Prints for each the
median latency of both, the median of the ratios of neighbouring turns with its 10th and 90th percentile, the time that
compiling took, how many conv kernels were found in the database, and the share of this core's measured matrix-multiply
speed that the net reaches.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import tvm
from figures import report_figure
from tvm import relax

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import Package, compile_net, untrained_net
from tvmfbnet.deploy.runtimes.onnx_runtime import import_onnxruntime
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def milliseconds(call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return 1e3 * (time.perf_counter() - start) / count


def gemm_gflops(size: int = 512, turns: int = 30) -> float:
    """The best speed of one thread's float32 matrix multiply here, GFLOP/s."""
    left, right = (np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) for _ in range(2))
    return 2 * size**3 / min(milliseconds(lambda: left @ right, 3) for _ in range(turns)) / 1e6


def both(package: Package) -> tuple[Callable[[], object], Callable[[], object]]:
    """Calls of a package and of ONNX Runtime's session of the same net, both on the same noise."""
    image = np.random.default_rng(0).standard_normal(package.input_shape).astype(np.float32)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(package.library)), tvm.cpu())
    machine.set_input("main", tvm.runtime.tensor(image, tvm.cpu()))
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(package.model), options, providers=["CPUExecutionProvider"])
    return lambda: machine.invoke_stateful("main"), lambda: session.run(None, {"input": image})


def compare(package: Package, turns: int) -> tuple[np.ndarray, np.ndarray]:
    run_ours, run_theirs = both(package)
    count = max(2, int(60 / max(milliseconds(run_ours, 3), 1e-3)))
    milliseconds(run_theirs, count)
    pairs = [(milliseconds(run_ours, count), milliseconds(run_theirs, count)) for _ in range(turns)]
    ours, theirs = np.array(pairs).T
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archs", nargs="+")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--turns", type=int, default=40)
    options = parser.parse_args()
    target = resolve(load_target(options.target))
    database = existing_database(target, options.tuning_logs)
    peak = gemm_gflops()
    print(f"one thread of {target.tvm['mcpu']}: {peak:.0f} GFLOP/s in a matrix multiply")
    for name in options.archs:
        arch, space = resolve_arch(name, load_space(options.space))
        with TemporaryDirectory() as folder:
            started = time.perf_counter()
            package = compile_net(untrained_net(arch, space), target, database, Path(folder))
            seconds = time.perf_counter() - started
            ours, theirs = compare(package, options.turns)
        low, middle, high = np.percentile(ours / theirs, (10, 50, 90))
        share = 2 * target.batch * count_arch(arch, space).macs / np.median(ours) / 1e6 / peak
        report_figure(f"{name}, latency over ONNX Runtime's", ours / theirs, "ratio", better="lower")
        fastest = float(ours.min() / theirs.min())  # other work on the machine changes it least
        report_figure(f"{name}, fastest pass over ONNX Runtime's", fastest, "ratio", better="lower")
        report_figure(f"{name}, latency", ours, "ms", better="lower")
        report_figure(f"{name}, time to compile", seconds, "s", better="lower")
        report_figure(f"{name}, share of the matrix-multiply speed", 100 * share, "%", better="higher")
        print(
            f"{name}: {np.median(ours):.3f} ms, ONNX Runtime {np.median(theirs):.3f} ms, ratio {middle:.3f} "
            f"({low:.3f} to {high:.3f}); {package.kernels.tuned} of {package.kernels.needed} conv kernels found, "
            f"compiled in {seconds:.0f} s, {share:.0%} of the matrix-multiply speed"
        )


if __name__ == "__main__":
    with as_command():
        main()
