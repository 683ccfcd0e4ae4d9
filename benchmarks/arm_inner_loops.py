"""The inner loops of kernels for ARM cores, and what a simulated core's model says of them.

For each kernel of a block: the first candidates of an untrained search (the rule of thumb that ranks them before the
first trial), built for the core, and of each the loop with the most multiply-adds. ``products_per_cycle`` is of that
loop, by the model of a simulated core; ``peak`` is the share of what the core's file documents. A kernel's figures are
those of its best candidate, with the median of all candidates. Says nothing about memory or what is outside of the
loop: for those, tune and see where the time goes (``hot_loops.py``).

    python benchmarks/arm_inner_loops.py --core a76 --space fbnet --block k3_e6

Needs LLVM 19 (Debian's package llvm-19).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from dataclasses import asdict, dataclass
from typing import Any

import tvm
from figures import report_figure
from first_candidates import first_candidates
from tvm.driver import build
from tvm.ir import IRModule

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.registers import accumulators
from tvmfbnet.autotune.templates import registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import Kernel, kernels_of, lower
from tvmfbnet.compiler.scheduled_kernels import for_codegen, without_prepacking
from tvmfbnet.dtypes import DTYPES
from tvmfbnet.errors import UserError
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import Core, list_cores, load_core
from tvmfbnet.simulation.microbenchmarks import assemble
from tvmfbnet.space.registry import load_space
from tvmfbnet.tools import cache_folder

# Loops that end with a conditional branch back to their label.
_BRANCH = re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+.*,)\s*(\.LBB\w+)$")
# Float multiply-adds and products, integer ones, and dot products, of whole vectors.
_PRODUCT = re.compile(r"(fmla|fmul|[su]?mla|[su]mlal2?|[su]mull2?|[su]dot|smmla|usdot)\s+v")
_HALF = re.compile(r"\.(2s|4h|8b)\b")
_WIDE_LOAD = re.compile(r"ld(p|r|ur|1)\s+\{?\s*(q\d|v\d+\.(4s|16b|8h|2d))")


@dataclass(frozen=True)
class Loop:
    """One candidate's hottest loop.

    Attributes:
        tile: rows x columns x channels, and what else its knobs say.
        sums: registers of its sums.
        instructions, products, loads, stack: of the loop: all, vector products, loads, and accesses to the stack.
        cycles: of one iteration, by the model.
        products_per_cycle: their ratio.
        peak: share of the core's throughput.
    """

    tile: str
    sums: int
    instructions: int
    products: float
    loads: int
    stack: int
    cycles: float
    products_per_cycle: float
    peak: float


def straight_loops(assembly: str) -> list[list[str]]:
    """Innermost loops without branches inside."""
    lines = [line.split("//")[0].strip() for line in assembly.splitlines()]
    lines = [line for line in lines if line and not line.startswith((".loc", ".Ltmp", ".p2align"))]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for end, line in enumerate(lines):
        back = _BRANCH.match(line)
        if back is None or labels.get(back[1], end) >= end:
            continue
        body = [item for item in lines[labels[back[1]] + 1 : end + 1] if not item.startswith(".")]
        if not any(_BRANCH.match(item) for item in body[:-1]):
            loops.append(body)
    return loops


def products_of(body: list[str]) -> float:
    """Multiply-adds of a loop, in vectors of 128 bits."""
    return sum((0.5 if _HALF.search(line) else 1.0) for line in body if _PRODUCT.match(line))


def cycles_of(bodies: list[list[str]], core: Core) -> list[float]:
    """Cycles of one iteration of each loop, as a simulated device counts them."""
    blocks = [assemble([re.sub(r"\.LBB\w+$", "#-4", " ".join(line.split())) for line in body]) for body in bodies]
    return BlockCycles(core, cache_folder() / "block-cycles").of(blocks)


def hottest_loop(scheduled: IRModule, shape: KernelShape, knobs: Knobs, target: Any) -> list[str]:
    """Builds a candidate; the loop with the most multiply-adds, empty where none has any."""
    mod, compiled_for = for_codegen(without_prepacking(scheduled), target)
    loops = straight_loops(build(mod, target=compiled_for).inspect_source("asm"))
    # Of a kernel that is cut at the image's borders, LLVM may join loops there, which then have more multiply-adds.
    tile = accumulators(shape, knobs, registers_of(target)) * shape.kernel**2 * knobs.unroll
    inside = [body for body in loops if products_of(body) and products_of(body) % tile == 0]
    body = max(inside or loops, key=products_of, default=[])
    return body if products_of(body) else []


def described(body: list[str], cycles: float, sums: int, knobs: Knobs, peak: float) -> Loop:
    """A loop's figures; ``peak`` is the core's multiply-adds of a cycle."""
    per_cycle = products_of(body) / cycles
    tile = (
        f"{knobs.rows}x{knobs.columns}x{knobs.channels} {knobs.order} u{knobs.unroll} s{knobs.staged} {knobs.padding}"
    )
    return Loop(
        tile,
        sums,
        len(body),
        products_of(body),
        sum(line.startswith("ld") for line in body),
        sum("[sp" in line or "[x29" in line for line in body),
        round(cycles, 1),
        round(per_cycle, 2),
        round(per_cycle / peak, 3),
    )


def summary(kernel: Kernel, shape: KernelShape, target: Any, core: Core, count: int) -> dict[str, Any] | None:
    """A kernel's best candidate of the first ones, and their median share of the core's throughput."""
    built = []
    for candidate in first_candidates(kernel, shape, target, count):
        if candidate.schedule is not None and isinstance(candidate.knobs, Knobs):
            body = hottest_loop(candidate.schedule.mod, shape, candidate.knobs, target)
            built += [(candidate.knobs, body)] if body else []
    if not built:
        return None
    registers, peak = registers_of(target), peak_of(core)
    loops = [
        described(body, cycles, accumulators(shape, knobs, registers), knobs, peak)
        for (knobs, body), cycles in zip(built, cycles_of([body for _, body in built], core), strict=True)
    ]
    best = max(loops, key=lambda loop: loop.peak)
    name = f"{shape.kind} k{shape.kernel}s{shape.stride} {shape.reduction}->{shape.channels}@{shape.height}"
    median = statistics.median(loop.peak for loop in loops)
    return {"kernel": name, "median_peak": round(median, 3), "candidates": len(loops), **asdict(best)}


def peak_of(core: Core) -> float:
    """Multiply-adds of 128 bits that a core does per cycle.

    Raises:
        UserError: none is documented in the core's file.
    """
    if core.documented is None:
        raise UserError(f"core {core.name} has no section documented: its throughput is not known")
    return float(core.documented.fmas_per_cycle)


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", choices=list_cores(), default="a76")
    parser.add_argument("--compiled-for", help="TVM's mcpu, if not the core's")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--block", default="k3_e6", help="name of a block, or stem")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--kinds", nargs="+", default=["conv", "depthwise"])
    parser.add_argument("--candidates", type=int, default=8, help="first candidates looked at of each kernel")
    options = parser.parse_args()
    core = load_core(options.core)
    cpu = options.compiled_for or core.codegen_cpu
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": 1})
    parts = [part for part in load_space(options.space).distinct_parts() if part.block == options.block]
    models = export_parts(parts, DTYPES[options.dtype])
    kernels = {k.key: k for model in models.values() for k in kernels_of(lower(model, target), target)}
    rows = []
    for kernel in kernels.values():
        shape = shape_of(kernel.mod)
        if shape is not None and shape.kind in options.kinds:
            row = summary(kernel, shape, target, core, options.candidates)
            rows += [] if row is None else [{"core": core.name, "mcpu": cpu, **row}]
    if rows:
        shares = [100 * row["peak"] for row in rows]
        name = f"{core.name}, {options.block}, {options.dtype}, best candidates, mean share of the peak"
        report_figure(name, statistics.mean(shares), "%", better="higher", exact=True)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
