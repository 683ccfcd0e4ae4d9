"""Kernels of a net with their sums in TVM's workspace and on the stack: the fastest call of each, in turn.

What :mod:`tvmfbnet.compiler.stack_buffers` gains on this machine. Each kernel has the schedule that tuning proposes
first. With AVX-512 both forms are the same.

    python benchmarks/sums_on_stack.py --dtype int8 --every 3
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from figures import report_figure
from first_candidates import arguments_of, net_candidates
from tvm.driver import build

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.scheduled_kernels import without_prepacking
from tvmfbnet.compiler.stack_buffers import use_stack

_ROUNDS, _CALLS = 40, 3


def main() -> None:
    """Prints a row per kernel and the mean ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--arch", default="fbnet_c")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--every", type=int, default=1, help="only every n-th kernel")
    options = parser.parse_args()
    ratios = []
    drawn = net_candidates(f"host,dtype={options.dtype}", options.space, options.arch, 1)
    for number, (shape, candidate, target) in enumerate(drawn):
        if number % options.every or candidate.schedule is None:
            continue
        before = without_prepacking(candidate.schedule.mod)
        mods, compiled_for = (before, use_stack(before, target.for_tvm())), target.for_tvm()
        calls, tensors = [build(mod, target=compiled_for)["main"] for mod in mods], arguments_of(before)
        best = [float("inf")] * 2
        for _ in range(_ROUNDS):
            for form, call in enumerate(calls):
                for _ in range(_CALLS):
                    began = time.perf_counter()
                    call(*tensors)
                    best[form] = min(best[form], 1e6 * (time.perf_counter() - began))
        ratios.append(best[1] / best[0])
        name = f"{shape.kind} {shape.kernel}x{shape.kernel} to {shape.height}x{shape.width}x{shape.channels}"
        print(f"{name:36} {best[0]:8.1f} us, on the stack {best[1]:8.1f}: {ratios[-1]:.2f}", flush=True)
    mean = float(np.exp(np.mean(np.log(ratios))))
    report_figure(f"{options.arch}, {options.dtype}, on the stack over in the workspace", mean, "ratio", better="lower")
    print(f"{len(ratios)} kernels: {mean:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    with as_command():
        main()
