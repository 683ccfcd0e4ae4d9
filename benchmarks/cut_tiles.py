"""Pointwise convolutions whose tiles end with the image or the channels, against tiles that divide both, timed in turn.

    python benchmarks/cut_tiles.py
    python benchmarks/cut_tiles.py --shapes 7x352-1984 --rounds 4

A shape is the side of the image, input and output channels. Of each form the ``--candidates`` are built that rank first
before any trial. Every call reads other weights than the one before, as in a net. The fastest tenth of a candidate's
calls counts, and of each form the fastest candidate.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from figures import report_figure
from tvm import relax
from tvm.driver import build
from tvm.ir import IRModule
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.machines import heuristic
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.lowering import kernels_of
from tvmfbnet.compiler.scheduled_kernels import for_codegen, without_prepacking
from tvmfbnet.targets.definition import load_target, resolve

SHAPES = ["7x184-1104", "7x1104-184", "7x672-184", "7x1104-352", "7x352-1984"]
# More than any cache near a core holds.
_WEIGHTS_BYTES = 64 * 2**20


@dataclass
class Timed:
    """A scheduled kernel, what it is called with, the weights that it takes in turn, and its calls, seconds."""

    function: Any
    arguments: list[Any]
    weights: list[Any]
    seconds: list[float] = field(default_factory=list)

    def call(self, turn: int) -> None:
        """Times one call."""
        self.arguments[1] = self.weights[turn % len(self.weights)]
        started = time.perf_counter()
        self.function(*self.arguments)
        self.seconds.append(time.perf_counter() - started)

    @property
    def microseconds(self) -> float:
        """Of the fastest tenth of the calls."""
        return float(np.percentile(self.seconds, 10) * 1e6)


def kernel(shape: str, target: tvm.target.Target) -> IRModule:
    """A pointwise convolution with bias and ReLU."""
    side, inputs, outputs = (int(number) for number in re.findall(r"\d+", shape))
    source = relax.Var("source", relax.TensorType((1, side, side, inputs), "float32"))
    weights = relax.Var("weights", relax.TensorType((1, 1, inputs, outputs), "float32"))
    bias = relax.Var("bias", relax.TensorType((outputs,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [source, weights, bias]):
        with builder.dataflow():
            total = builder.emit(relax.op.nn.conv2d(source, weights, data_layout="NHWC", kernel_layout="HWIO"))
            biased = builder.emit(relax.op.add(total, bias))
            result = builder.emit_output(relax.op.nn.relu(biased))
        builder.emit_func_output(result)
    passes = relax.transform
    steps = [passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FuseOps(), passes.FuseTIR()]
    (lowered,) = kernels_of(tvm.transform.Sequential(steps)(builder.get()), target)
    return lowered.mod


def fastest_by_rule(shape: KernelShape, registers: Registers, cut: bool, count: int) -> list[Knobs]:
    """The candidates of one form that rank first, serial ones only."""
    ways = [way for way in all_knobs(shape, registers) if not way.parallel]
    fitting = [way for way in ways if any(shape.cuts(way.columns, way.channels)) == cut]
    return sorted(fitting, key=lambda way: heuristic(shape, way, registers))[:count]


def timed(mod: IRModule, shape: KernelShape, knobs: Knobs, target: tvm.target.Target) -> Timed:
    """One candidate, built, with arguments of noise."""
    whole = without_prepacking(apply_knobs(mod, shape, knobs).mod)
    compiled, compiled_for = for_codegen(whole, target)
    rng = np.random.default_rng(0)
    sizes = [[int(size) for size in info.shape] for info in ArgInfo.from_prim_func(whole["main"])]
    count = max(1, _WEIGHTS_BYTES // (4 * int(np.prod(sizes[1]))))
    weights = [rng.random(sizes[1], dtype=np.float32) for _ in range(count)]
    arguments = [tvm.runtime.tensor(rng.random(size, dtype=np.float32)) for size in sizes]
    return Timed(build(compiled, target=compiled_for)["main"], arguments, [tvm.runtime.tensor(one) for one in weights])


def main() -> None:
    """Prints one row per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="SIDExINPUTS-OUTPUTS")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10, help="through all weights")
    arguments = parser.parse_args()
    count = arguments.candidates
    for name in arguments.shapes:
        if not re.fullmatch(r"\d+x\d+-\d+", name):
            parser.error(f"{name}: a shape is side, inputs and outputs, such as {SHAPES[0]}")
    target = resolve(load_target("host")).for_tvm()
    registers = registers_of(target)
    print(f"{'kernel':14} {'whole tiles':>12} {'cut tiles':>10} {'ratio':>6}")
    for name in arguments.shapes:
        mod = kernel(name, target)
        shape = shape_of(mod)
        forms = [[]] if shape is None else [fastest_by_rule(shape, registers, cut, count) for cut in (False, True)]
        if shape is None or not all(forms):
            print(f"{name:14} no tile of it is cut on this machine")
            continue
        candidates = [[timed(mod, shape, knobs, target) for knobs in form] for form in forms]
        for turn in range(arguments.rounds * len(candidates[0][0].weights)):
            for candidate in [candidate for form in candidates for candidate in form]:
                candidate.call(turn)
        whole, cut = (min(candidate.microseconds for candidate in form) for form in candidates)
        report_figure(f"{name}, cut over whole tiles", cut / whole, "ratio", better="lower")
        print(f"{name:14} {whole:9.1f} us {cut:7.1f} us {cut / whole:6.2f}", flush=True)


if __name__ == "__main__":
    with as_command():
        main()
