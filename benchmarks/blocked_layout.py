"""Whether kernels would be faster with activations in blocked NCHWc than in NHWC: both tuned alike, timed in turn.

    python benchmarks/blocked_layout.py [--target host] [--trials 48] [--turns 15] [--only dw]

For typical shapes of `fbnet` (convolution, bias, ReLU; float32, one thread) the same operation is built twice: in NHWC,
lowered and scheduled as `tvmfbnet tune` does it, and in NCHWc with weights in OIHWio order, scheduled with the same
pattern (`apply_blocked`). Both have the same knobs, the same search (the ranking, a new one each) and as many trials;
both get their weights re-laid out in the order in which the tiles read them. Every kernel that is compared computes
what numpy does. The fastest of each layout's search are timed again in turn; the best of these count. Prints
milliseconds, GFLOP/s and the ratio NCHWc / NHWC (below 1: blocked is faster) with its spread over the turns.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.driver import build
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.compiler.lowering import fuse, kernels_of
from tvmfbnet.devices.target import load_target, resolve_native
from tvmfbnet.tuning.candidate import Candidate
from tvmfbnet.tuning.knobs import KernelShape, Knobs, all_knobs
from tvmfbnet.tuning.ranking import Ranking
from tvmfbnet.tuning.templates import apply_knobs, registers_of, shape_of

BATCH, FINALISTS = 8, 4


@dataclass(frozen=True)
class Case:
    """A convolution of `fbnet`: output size, channels, window; depthwise or over all channels."""

    name: str
    size: int
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1

    @property
    def depthwise(self) -> bool:
        return self.kernel > 1

    @property
    def block(self) -> int:
        """Channels of a block: 16, or 8 where 16 does not divide the channels."""
        return 16 if self.inputs % 16 == 0 and self.outputs % 16 == 0 else 8

    @property
    def source(self) -> tuple[int, int, int]:
        return (self.size * self.stride, self.size * self.stride, self.inputs)


CASES = (
    Case("dw k3 s1", 56, 144, 144, 3),
    Case("dw k5 s2", 28, 144, 144, 5, 2),
    Case("dw k5 s1", 28, 192, 192, 5),
    Case("dw k3 s2", 14, 192, 192, 3, 2),
    Case("dw k5 s1", 14, 384, 384, 5),
    Case("1x1", 56, 24, 144),
    Case("1x1", 28, 192, 32),
    Case("1x1", 14, 64, 384),
    Case("1x1", 14, 384, 64),
)


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input (height, width, channels), weights (kernel, kernel, in a group, out) and bias (out,)."""
    rng = np.random.default_rng(0)
    weights = (case.kernel, case.kernel, 1 if case.depthwise else case.inputs, case.outputs)
    return tuple(rng.standard_normal(shape).astype("float32") for shape in (case.source, weights, (case.outputs,)))


def expected(case: Case) -> np.ndarray:
    """What numpy computes, (height, width, channels)."""
    image, weights, bias = arrays(case)
    margin = case.kernel // 2
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    total = np.zeros((case.size, case.size, case.outputs)) + bias
    for y in range(case.kernel):
        for x in range(case.kernel):
            seen = padded[y:, x:][: case.size * case.stride : case.stride, : case.size * case.stride : case.stride]
            total += seen * weights[y, x, 0] if case.depthwise else seen @ weights[y, x]
    return np.maximum(total, 0)


def interleaved(case: Case, target: tvm.target.Target) -> tvm.IRModule:
    """The NHWC kernel, lowered as the compiler does it."""
    _, weights, bias = arrays(case)
    builder, source = relax.BlockBuilder(), relax.Var("source", relax.TensorType((1, *case.source), "float32"))
    with builder.function("main", [source]):
        with builder.dataflow():
            total = relax.op.nn.conv2d(
                source,
                relax.const(weights),
                strides=case.stride,
                padding=case.kernel // 2,
                groups=case.inputs if case.depthwise else 1,
                data_layout="NHWC",
                kernel_layout="HWIO",
            )
            total = builder.emit(relax.op.add(builder.emit(total), relax.const(bias.reshape(1, 1, 1, -1))))
            out = builder.emit_output(relax.op.nn.relu(total))
        builder.emit_func_output(out)
    (kernel,) = kernels_of(fuse(builder.get(), target), target)
    return kernel.mod


def blocked(case: Case) -> tvm.IRModule:
    """The same operation on (channel blocks, height, width, channels of a block), weights OIHWio or OHWo."""
    block, k, margin = case.block, case.kernel, case.kernel // 2
    height, width, inputs = case.source
    out_blocks, in_blocks = case.outputs // block, 1 if case.depthwise else inputs // block
    source = te.placeholder((inputs // block, height, width, block), name="source")
    taken = (out_blocks, k, k, block) if case.depthwise else (out_blocks, in_blocks, k, k, block, block)
    weights, bias = te.placeholder(taken, name="weights"), te.placeholder((out_blocks, block), name="bias")

    def pad(c: Any, y: Any, x: Any, b: Any) -> Any:
        inside = tirx.all(y >= margin, y < height + margin, x >= margin, x < width + margin)
        return tirx.if_then_else(inside, source[c, y - margin, x - margin, b], tirx.const(0, "float32"))

    padded = te.compute((inputs // block, height + 2 * margin, width + 2 * margin, block), pad, name="pad")
    rows, columns = te.reduce_axis((0, k), name="ky"), te.reduce_axis((0, k), name="kx")
    outer, inner = te.reduce_axis((0, in_blocks), name="ko"), te.reduce_axis((0, block), name="ki")

    def total(c: Any, y: Any, x: Any, b: Any) -> Any:
        at = (y * case.stride + rows, x * case.stride + columns)
        if case.depthwise:
            return te.sum(padded[c, *at, b] * weights[c, rows, columns, b], axis=[rows, columns])
        product = padded[outer, *at, inner] * weights[c, outer, rows, columns, inner, b]
        return te.sum(product, axis=[outer, rows, columns, inner])

    shape = (out_blocks, case.size, case.size, block)
    conv = te.compute(shape, total, name="conv")
    zero = tirx.const(0, "float32")
    out = te.compute(shape, lambda c, y, x, b: tirx.max(conv[c, y, x, b] + bias[c, b], zero), name="out")
    function = te.create_prim_func([source, weights, bias, out]).with_attr("layout_free_buffers", [1])
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def apply_blocked(mod: tvm.IRModule, shape: KernelShape, knobs: Knobs) -> Schedule:
    """The pattern of :func:`tvmfbnet.tuning.templates.apply_knobs` for blocked activations.

    The tile is ``rows`` x ``columns`` pixels x ``channels`` / block vectors; its sums stay in registers.
    """
    schedule = Schedule(mod)
    pad, total, last = (schedule.get_sblock(name, "main") for name in ("pad", "conv", "out"))
    loops = schedule.get_loops(last)
    split = {
        axis: schedule.split(loop, [None, factor])
        for axis, loop, factor in zip(
            "cyx", loops, (knobs.channels // knobs.lanes, knobs.rows, knobs.columns), strict=False
        )
    }
    outer, inner = [split[axis][0] for axis in knobs.order], [split[axis][1] for axis in "yxc"]
    schedule.reorder(*outer, *inner, loops[3])
    for loop in inner:
        schedule.unroll(loop)
    schedule.vectorize(loops[3])
    schedule.set_scope(total, 0, "local")
    schedule.compute_at(total, outer[-1], preserve_unit_loops=True)
    c, y, x, lanes, *reduced = schedule.get_loops(total)[3:]
    if shape.kind == "depthwise":
        schedule.reorder(*reduced, y, x, c, lanes)
        unrolled = reduced
    else:
        deep, steps = schedule.split(reduced[-1], [None, knobs.unroll])
        schedule.reorder(*reduced[:-1], deep, steps, y, x, c, lanes)
        unrolled = [*reduced[1:-1], steps]
    for loop in (*unrolled, y, x, c):
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    if knobs.padding == "inline":
        schedule.compute_inline(pad)
    else:
        if knobs.padding != "whole":
            schedule.compute_at(pad, outer[0] if knobs.padding == "outer" else outer[1], preserve_unit_loops=True)
        schedule.vectorize(schedule.get_loops(pad)[-1])
    ms.postproc.RewriteLayout().apply(schedule)
    init = schedule.decompose_reduction(total, schedule.get_loops(total)[3])
    for loop in schedule.get_loops(init)[3:-1]:
        schedule.unroll(loop)
    return schedule


def as_blocked(array: np.ndarray, case: Case) -> np.ndarray:
    """(height, width, channels) as (channel blocks, height, width, channels of a block)."""
    height, width, channels = array.shape
    blocks = array.reshape(height, width, channels // case.block, case.block)
    return np.ascontiguousarray(blocks.transpose(2, 0, 1, 3))


def blocked_weights(case: Case) -> np.ndarray:
    k, block, weights = case.kernel, case.block, arrays(case)[1]
    if case.depthwise:
        return np.ascontiguousarray(weights.reshape(k, k, -1, block).transpose(2, 0, 1, 3))
    split = weights.reshape(k, k, case.inputs // block, block, case.outputs // block, block)
    return np.ascontiguousarray(split.transpose(4, 2, 0, 1, 3, 5))


@dataclass
class Layout:
    """One side of the comparison: how a case is scheduled, called and read back."""

    mod: tvm.IRModule
    apply: Callable[[tvm.IRModule, KernelShape, Knobs], Schedule]
    arguments: list[np.ndarray]
    read: Callable[[np.ndarray], np.ndarray]
    found: list[tuple[float, Candidate]]

    @property
    def best(self) -> list[Candidate]:
        return [candidate for _, candidate in sorted(self.found, key=lambda pair: pair[0])[:FINALISTS]]


def sides(case: Case, target: tvm.target.Target) -> dict[str, Layout]:
    image, weights, bias = arrays(case)
    nhwc = [image[None], weights, bias.reshape(1, 1, 1, -1), np.zeros((1, case.size, case.size, case.outputs))]
    empty = np.zeros((case.outputs // case.block, case.size, case.size, case.block))
    nchwc = [as_blocked(image, case), blocked_weights(case), bias.reshape(-1, case.block), empty]
    return {
        "NHWC": Layout(interleaved(case, target), apply_knobs, nhwc, lambda out: out[0], []),
        "NCHWc": Layout(
            blocked(case),
            apply_blocked,
            nchwc,
            lambda out: out.transpose(1, 2, 0, 3).reshape(case.size, case.size, case.outputs),
            [],
        ),
    }


class Bench:
    """Builds and times candidates in this process.

    Args:
        target: what for.
        folder: for their libraries.
    """

    def __init__(self, target: tvm.target.Target, folder: Path) -> None:
        self._target, self._folder, self._count = target, folder, 0

    def load(self, candidate: Candidate, prepacked: bool = True) -> Any:
        """The kernel's library; with ``prepacked`` its weights are to come as the schedule wants them."""
        mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(candidate.schedule.mod)
        path = self._folder / f"{self._count}.so"
        self._count += 1
        build(mod if prepacked else candidate.schedule.mod, target=self._target).export_library(str(path))
        return tvm.runtime.load_module(str(path))

    def timer(self, candidate: Candidate, min_ms: int = 5) -> Callable[[], float]:
        """A function that times the kernel, milliseconds."""
        rng = np.random.default_rng(0)
        tensors = [
            tvm.runtime.tensor(rng.standard_normal(size).astype(kind), tvm.cpu()) for kind, size in candidate.arguments
        ]
        timed = self.load(candidate).time_evaluator("main", tvm.cpu(), number=3, repeat=2, min_repeat_ms=min_ms)
        return lambda: 1e3 * min(timed(*tensors).results)

    def search(self, layout: Layout, shape: KernelShape, ways: list[Knobs], trials: int) -> None:
        """Spends the trials as `tvmfbnet tune` does: three quarters of a round by the ranking, the rest at random."""
        ranking, chooser, left = Ranking(registers_of(self._target)), random.Random(0), list(ways)
        for _ in range(ceil(trials / BATCH)):
            if not left:
                return
            predicted = ranking.predict_ms(shape, ranking.rows(shape, left))
            scores = [ranking.thumb(shape, knobs) + chooser.uniform(0, 0.3) for knobs in left]
            order = list(np.argsort(scores if predicted is None else predicted, kind="stable"))
            chosen = order[: BATCH - 2] + chooser.sample(order[BATCH - 2 :], min(2, max(0, len(order) - BATCH + 2)))
            for knobs in [left[index] for index in chosen]:
                left.remove(knobs)
                candidate = Candidate.of(layout.apply(layout.mod, shape, knobs), knobs)
                latency = self.timer(candidate)()
                layout.found.append((latency, candidate))
                ranking.add(shape, knobs, latency)

    def check(self, layout: Layout, case: Case) -> None:
        """Ends the program where a side's best kernels do not compute what numpy does."""
        for candidate in layout.best:
            tensors = [tvm.runtime.tensor(array.astype("float32"), tvm.cpu()) for array in layout.arguments]
            self.load(candidate, prepacked=False)["main"](*tensors)
            actual = layout.read(tensors[-1].numpy())
            np.testing.assert_allclose(
                actual, expected(case), rtol=1e-3, atol=1e-3, err_msg=f"{case} {candidate.knobs}"
            )


def compare(case: Case, target: tvm.target.Target, options: argparse.Namespace, bench: Bench) -> float:
    layouts = sides(case, target)
    shape = shape_of(layouts["NHWC"].mod)
    if shape is None:
        raise SystemExit(f"no template fits {case}")
    ways = all_knobs(shape, registers_of(target))
    fitting = [knobs for knobs in ways if knobs.lanes == case.block]
    bench.search(layouts["NHWC"], shape, ways, options.trials)
    bench.search(layouts["NCHWc"], shape, fitting, options.trials)
    timers = []
    for layout in layouts.values():
        bench.check(layout, case)
        timers.append([bench.timer(candidate) for candidate in layout.best])
    turns = np.array([[[time() for time in side] for side in timers] for _ in range(options.turns)])
    chosen = [int(index) for index in np.median(turns, axis=0).argmin(axis=1)]
    ours, theirs = (turns[:, side, index] for side, index in enumerate(chosen))
    low, ratio, high = np.percentile(theirs / ours, (10, 50, 90))
    flops = 2e-6 * shape.products
    print(
        f"{case.name:9} {case.inputs:3} -> {case.outputs:3} @{case.size:2}, c{case.block:2}: "
        f"NHWC {np.median(ours):.4f} ms ({flops / np.median(ours):3.0f} GFLOP/s), "
        f"NCHWc {np.median(theirs):.4f} ms ({flops / np.median(theirs):3.0f}): {ratio:.3f} ({low:.3f} to {high:.3f}); "
        f"{len(layouts['NHWC'].found)} and {len(layouts['NCHWc'].found)} trials",
        flush=True,
    )
    if options.verbose:
        for (name, layout), index in zip(layouts.items(), chosen, strict=True):
            print(f"    {name}: {layout.best[index].knobs}", flush=True)
    return float(ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="host")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="print the winners' knobs")
    options = parser.parse_args()
    target = tvm.target.Target(resolve_native(load_target(options.target)).tvm)
    ratios: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        bench = Bench(target, Path(folder))  # one for all: a library that was loaded once is found again by its name
        for case in CASES:
            if options.only in case.name:
                ratio = compare(case, target, options, bench)
                ratios.setdefault("depthwise" if case.depthwise else "1x1", []).append(ratio)
    for kind, values in ratios.items():
        print(f"{kind}: geometric mean {np.exp(np.mean(np.log(values))):.3f}, {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
