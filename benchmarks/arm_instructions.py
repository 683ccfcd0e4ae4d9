"""Counts what the innermost loops of pointwise int8 kernels execute, for ARM cores that are not here to be timed.

For each pointwise kernel of a block: instructions in the innermost loop for 1000 multiply-adds, of the schedule that
needs fewest among some that fill the registers. Says nothing about memory or what comes after the loop.

    python benchmarks/arm_instructions.py --space fbnet --block k3_e6
"""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

import tvm
from figures import report_figure
from tvm.driver import build

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.registers import Registers, accumulators
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.dot_products import DOT_PRODUCTS
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import Kernel, kernels_of, lower
from tvmfbnet.compiler.scheduled_kernels import without_prepacking
from tvmfbnet.dtypes import INT8
from tvmfbnet.space.registry import load_space

# Loops that end with a conditional branch back to their label.
_BRANCH = re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+.*,)\s*(\.LBB\w+)$")


def innermost_loop(assembly: str, instruction: str) -> list[str]:
    """The instructions of the shortest loop in which one occurs; empty where there is none."""
    lines = [line.strip() for line in assembly.splitlines()]
    lines = [line for line in lines if line and not line.startswith((".loc", "//", ".Ltmp", ".p2align"))]
    loops = []
    for end, line in enumerate(lines):
        back = _BRANCH.match(line)
        starts = [at for at in range(end) if back and lines[at].startswith(f"{back[1]}:")]
        body = lines[starts[-1] + 1 : end + 1] if starts else []
        if any(item.startswith(instruction) for item in body):
            loops.append(body)
    return min(loops, key=len, default=[])


def fills(shape: KernelShape, knobs: Knobs, registers: Registers) -> bool:
    """Whether a schedule is worth a look: its sums leave few registers free, and its loop is not unrolled."""
    return knobs.order == "yxc" and knobs.unroll == 1 and 12 <= accumulators(shape, knobs, registers) <= 28


def count(kernel: Kernel, target: Any, most: int) -> dict[str, Any]:
    """The fewest instructions for 1000 useful multiply-adds."""
    shape, registers = shape_of(kernel.mod), registers_of(target)
    dot = DOT_PRODUCTS[shape.dot]
    ways = [knobs for knobs in all_knobs(shape, registers) if fills(shape, knobs, registers)][:most]
    counted = []
    for knobs in ways:
        scheduled = without_prepacking(apply_knobs(kernel.mod, shape, knobs).mod)
        body = innermost_loop(build(scheduled, target=target).inspect_source("asm"), dot.name)
        products = sum(line.startswith(dot.name) for line in body) * dot.pixels * shape.dot_lanes * dot.group
        useful = products * knobs.columns / (shape.positions(1, knobs.columns) * dot.pixels)
        if useful:
            counted.append((1000 * len(body) / useful, knobs))
    fewest, knobs = min(counted, key=lambda pair: pair[0])
    name = f"{shape.reduction}-{shape.channels}@{shape.height}x{shape.width}"
    tile = f"{knobs.rows}x{knobs.columns}x{knobs.channels} {knobs.padding}"
    return {"kernel": name, "instruction": dot.name, "tile": tile, "for_1000_products": round(fewest, 1)}


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--block", default="k3_e6")
    parser.add_argument("--cpus", nargs="+", default=["cortex-a76", "cortex-a710"], help="LLVM's names")
    parser.add_argument("--resolutions", nargs="+", type=int, default=[14, 7])
    parser.add_argument("--most", type=int, default=14, help="schedules tried for each kernel")
    options = parser.parse_args()
    parts = [
        part
        for part in load_space(options.space).distinct_parts()
        if part.block == options.block and part.stride == 1 and part.height in options.resolutions
    ]
    rows = []
    for cpu in options.cpus:
        target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": 1})
        kernels = [
            kernel
            for model in export_parts(parts, INT8).values()
            for kernel in kernels_of(lower(model, target), target)
        ]
        for kernel in {kernel.key: kernel for kernel in kernels}.values():
            shape = shape_of(kernel.mod)
            if shape is not None and shape.dot and shape.kind == "conv" and shape.kernel == 1:
                rows.append({"cpu": cpu, **count(kernel, target, options.most)})
    for cpu in options.cpus:
        counts = [row["for_1000_products"] for row in rows if row["cpu"] == cpu]
        name = f"{cpu}, {options.block}, instructions for 1000 multiply-adds, mean of kernels"
        report_figure(name, sum(counts) / len(counts), "count", better="lower", exact=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
