"""The inner loops of kernels for ARM cores, and what LLVM's scheduling model of the core says of them.

For each kernel of a block: the first candidates of an untrained search (the rule of thumb that ranks them before the
first trial), built for the core, and of each the loop with the most multiply-adds. ``fmla_per_cycle`` is of that loop,
by llvm-mca; ``peak`` is the share of what the core can issue. A kernel's figures are those of its best candidate, with
the median of all candidates. Says nothing about memory or what is outside of the loop, which the scheduling model
cannot see.

    python benchmarks/arm_inner_loops.py --core a76 --space fbnet --block k3_e6

Needs LLVM 19 (``llvm-mca-19``).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

import tvm
from tvm.driver import build
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.knobs import KernelShape, Knobs, accumulators
from tvmfbnet.autotune.template_search import TemplateSearch
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import Kernel, kernels_of, lower
from tvmfbnet.compiler.stack_buffers import use_stack
from tvmfbnet.dtypes import DTYPES
from tvmfbnet.errors import UserError
from tvmfbnet.space.registry import load_space

_ANALYSER = "llvm-mca-19"
_ITERATIONS = 100
# Loops that end with a conditional branch back to their label.
_BRANCH = re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+.*,)\s*(\.LBB\w+)$")
# Float multiply-adds and products, integer ones, and dot products, of whole vectors.
_PRODUCT = re.compile(r"(fmla|fmul|[su]?mla|[su]mlal2?|[su]mull2?|[su]dot|smmla|usdot)\s+v")
_HALF = re.compile(r"\.(2s|4h|8b)\b")
_WIDE_LOAD = re.compile(r"ld(p|r|ur|1)\s+\{?\s*(q\d|v\d+\.(4s|16b|8h|2d))")


@dataclass(frozen=True)
class Core:
    """How llvm-mca sees a core.

    Attributes:
        compiled_for: TVM's ``mcpu``.
        model: llvm-mca's ``-mcpu``.
        peak: 128-bit multiply-adds of a cycle.
        dispatch: micro-operations per cycle; 0 for those of the model.
        is_in_order: whether it issues two instructions per cycle in order, which LLVM's model gets wrong.
    """

    compiled_for: str
    model: str
    peak: float
    dispatch: int = 0
    is_in_order: bool = False


# LLVM models Cortex-A76 as A57, which has half its throughput: Neoverse N1 is the same core with a wider front end. Its
# A53 makes loads wait for older multiply-adds, so A55 stands for both. Their 128-bit arithmetic fills two 64-bit pipes,
# and a 128-bit load the 64-bit load path for two cycles, in which nothing else issues (ncnn's guide to dual issue).
CORES = {
    "a76": Core("neoverse-n1", "neoverse-n1", 2, dispatch=3),
    "a72": Core("cortex-a72", "cortex-a72", 1),
    "a55": Core("cortex-a55", "cortex-a55", 1, is_in_order=True),
    "a53": Core("cortex-a53", "cortex-a55", 1, is_in_order=True),
}


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


def cycles_of(body: list[str], core: Core) -> float:
    """Cycles of one iteration of a steady loop."""
    lines = [re.sub(r"\.LBB\w+", ".Lloop", line) for line in body]
    if core.is_in_order:
        return max(_model_cycles([piece for line in lines for piece in _halved(line)], core), _issue_cycles(body))
    return _model_cycles(lines, core)


def _model_cycles(lines: list[str], core: Core) -> float:
    command = [_ANALYSER, "-mtriple=aarch64", f"-mcpu={core.model}", f"-iterations={_ITERATIONS}", "-json"]
    command += [f"-dispatch={core.dispatch}"] if core.dispatch else []
    text = "\n".join([".Lloop:", *lines])
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=60)
    return float(json.loads(said.stdout)["CodeRegions"][0]["SummaryView"]["TotalCycles"] / _ITERATIONS)


def _halved(line: str) -> list[str]:
    """Arithmetic on 128 bits as LLVM's model knows it of an in-order core, on 64 bits; pairs of loads one by one."""
    pair = re.match(r"ldp\s+(q\d+), (q\d+), \[(\w+)", line)
    if pair is not None:
        return [f"ldr {pair[1]}, [{pair[3]}]", f"ldr {pair[2]}, [{pair[3]}]"]
    if re.match(r"f\w+\s+v", line):
        return [re.sub(r"\.(4s|s\[\d\])", ".2s", line)]
    return [line]


def _issue_cycles(body: list[str]) -> float:
    """Cycles in which an in-order core issues a loop: two instructions, one on 128 bits, or half of a 128-bit load."""
    loads = 2.0 * sum((2 if line.startswith("ldp") else 1) for line in body if _WIDE_LOAD.match(line))
    others = [line for line in body if not _WIDE_LOAD.match(line)]
    vector = sum(1.0 for line in others if re.match(r"\w+\s+v\d+\.(4s|16b|8h|2d)", line))
    return loads + max(0.5 * len(others), vector)


def candidates(kernel: Kernel, shape: KernelShape, target: Any, count: int) -> list[Knobs]:
    """The first candidates of a search that has no trials yet, without its random ones."""
    cost_model = TrialCostModel(registers_of(target))
    search = TemplateSearch(kernel, shape, cost_model, (), count, 0)
    return [knobs for candidate in search.propose() if (knobs := candidate.knobs) is not None]


def look_at(kernel: Kernel, shape: KernelShape, knobs: Knobs, target: Any, core: Core) -> Loop | None:
    """Builds a candidate and analyses its hottest loop; None where that has no multiply-adds."""
    scheduled = use_stack(apply_knobs(kernel.mod, shape, knobs).mod, target)
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(scheduled)
    body = max(straight_loops(build(mod, target=target).inspect_source("asm")), key=products_of, default=[])
    if not products_of(body):
        return None
    cycles = cycles_of(body, core)
    per_cycle = products_of(body) / cycles
    tile = (
        f"{knobs.rows}x{knobs.columns}x{knobs.channels} {knobs.order} u{knobs.unroll} s{knobs.staged} {knobs.padding}"
    )
    return Loop(
        tile,
        accumulators(shape, knobs, registers_of(target)),
        len(body),
        products_of(body),
        sum(line.startswith("ld") for line in body),
        sum("[sp" in line or "[x29" in line for line in body),
        round(cycles, 1),
        round(per_cycle, 2),
        round(per_cycle / core.peak, 3),
    )


def summary(kernel: Kernel, shape: KernelShape, target: Any, core: Core, count: int) -> dict[str, Any] | None:
    """A kernel's best candidate of the first ones, and their median share of the core's throughput."""
    loops = [look_at(kernel, shape, knobs, target, core) for knobs in candidates(kernel, shape, target, count)]
    straight = [loop for loop in loops if loop is not None]
    if not straight:
        return None
    best = max(straight, key=lambda loop: loop.peak)
    name = f"{shape.kind} k{shape.kernel}s{shape.stride} {shape.reduction}->{shape.channels}@{shape.height}"
    median = statistics.median(loop.peak for loop in straight)
    return {"kernel": name, "median_peak": round(median, 3), "candidates": len(straight), **asdict(best)}


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", choices=sorted(CORES), default="a76")
    parser.add_argument("--compiled-for", help="TVM's mcpu, if not the core's")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--block", default="k3_e6", help="name of a block, or stem")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--kinds", nargs="+", default=["conv", "depthwise"])
    parser.add_argument("--candidates", type=int, default=8, help="first candidates looked at of each kernel")
    options = parser.parse_args()
    if shutil.which(_ANALYSER) is None:
        raise UserError(f"there is no {_ANALYSER} here; install Debian's package llvm-19")
    core = CORES[options.core]
    cpu = options.compiled_for or core.compiled_for
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "num-cores": 1})
    parts = [part for part in load_space(options.space).distinct_parts() if part.block == options.block]
    models = export_parts(parts, DTYPES[options.dtype])
    kernels = {k.key: k for model in models.values() for k in kernels_of(lower(model, target), target)}
    rows = []
    for kernel in kernels.values():
        shape = shape_of(kernel.mod)
        if shape is not None and shape.kind in options.kinds:
            row = summary(kernel, shape, target, core, options.candidates)
            rows += [] if row is None else [{"core": options.core, "mcpu": cpu, **row}]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
