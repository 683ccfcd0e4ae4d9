"""Depthwise convolutions in int8: rows of taps packed for dot products, against products of widened bytes.

    python benchmarks/packed_taps.py
    python benchmarks/packed_taps.py --mcpu haswell --shapes 14x384k3s1

Both forms of each kernel get ``--schedules`` random schedules of their template. All are timed in turn, in many rounds,
and the fastest call of the fastest schedule counts for each form. The ratio below 1 is in favour of packed taps.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from figures import report_figure
from first_candidates import arguments_of
from tvm import relax
from tvm.driver import build
from tvm.ir import IRModule

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler import integer_kernels as kernels
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.integer_sums import widening_convolution
from tvmfbnet.compiler.scheduled_kernels import for_codegen, without_prepacking
from tvmfbnet.compiler.tap_products import tap_convolution
from tvmfbnet.targets.definition import load_target, resolve

SHAPES = ["112x16k3s1", "56x72k3s1", "28x192k5s1", "28x192k3s2", "14x384k3s1", "14x384k5s1", "7x1104k5s1"]
_CALLS = 5


@dataclass
class Timed:
    """A scheduled kernel, what it is called with, and its fastest call, microseconds."""

    call: Callable[[], None]
    best_us: float = float("inf")


def kernel(target: tvm.target.Target, shape: str, packed: bool) -> IRModule:
    """A depthwise convolution with requantisation: its side, channels, kernel size and stride are in ``shape``."""
    side, channels, size, stride = (int(number) for number in re.findall(r"\d+", shape))
    dot = dot_product_of(target)
    draft = kernels.Draft(dot)
    source = draft.argument(relax.Var("codes", relax.TensorType((1, side, side, channels), dot.codes)))
    weights = np.random.default_rng(0).integers(-127, 127, (channels, 1, size, size)).astype("int8")
    window = kernels.ConvWindow(size, stride, size // 2, channels)
    if packed:
        total = tap_convolution(draft, source, weights, 7, window, dot.whole_lanes(channels))
    else:
        total = widening_convolution(draft, source, weights, 7, window)
    terms = kernels.SumTerms(np.zeros(channels, "int32"), np.full(channels, 1e-3, "float32"))
    codes = kernels.scaled_sum(draft, total, terms, kernels.Quantisation(0.05, 7, 0, 255), channels)
    return IRModule({"main": draft.finish(kernels.store(codes, dot)).with_attr("global_symbol", "main")})


def scheduled(mod: IRModule, target: tvm.target.Target, count: int) -> list[Timed]:
    """The kernel with random schedules, those with whole registers only."""
    shape = shape_of(mod)
    assert shape is not None
    ways = all_knobs(shape, registers_of(target))
    widest = max(way.lanes for way in ways)
    fitting = [way for way in ways if way.lanes == widest and way.rows * way.columns <= 28 and not way.parallel]
    return [timed(mod, target, way) for way in random.Random(0).sample(fitting, min(count, len(fitting)))]


def timed(mod: IRModule, target: tvm.target.Target, way: Knobs) -> Timed:
    """One schedule, built."""
    shape = shape_of(mod)
    assert shape is not None
    whole = without_prepacking(apply_knobs(mod, shape, way).mod)
    compiled, compiled_for = for_codegen(whole, target)
    function, tensors = build(compiled, target=compiled_for)["main"], arguments_of(whole)
    return Timed(lambda: function(*tensors))


def main() -> None:
    """Prints one row per kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="side x channels k kernel s stride")
    parser.add_argument("--mcpu", help="compile for this x86 CPU, which must be a subset of the machine's")
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    target = resolve(load_target("host")).for_tvm()
    if arguments.mcpu:
        target = tvm.target.Target({"kind": "llvm", "mcpu": arguments.mcpu, "num-cores": 1})
    print(f"{dot_product_of(target).name}: fastest of {arguments.schedules} schedules, us")
    print(f"{'kernel':14} {'widened':>8} {'packed':>8} {'ratio':>6}")
    for shape in arguments.shapes:
        forms = [scheduled(kernel(target, shape, packed), target, arguments.schedules) for packed in (False, True)]
        for _ in range(arguments.rounds):
            for way in [way for form in forms for way in form]:
                started = time.perf_counter()
                for _ in range(_CALLS):
                    way.call()
                way.best_us = min(way.best_us, (time.perf_counter() - started) / _CALLS * 1e6)
        widened, packed = (min(way.best_us for way in form) for form in forms)
        report_figure(f"{shape}, packed over widened", packed / widened, "ratio", better="lower")
        print(f"{shape:14} {widened:8.2f} {packed:8.2f} {packed / widened:6.2f}", flush=True)


if __name__ == "__main__":
    main()
