"""Are kernels faster with blocked NCHWc activations than with NHWC? Both tuned with the same budget, timed in turn.

    python benchmarks/blocked_layout.py [--target host] [--trials 64] [--passes 2] [--turns 15] [--only dw]

For typical shapes of `fbnet` (convolution, bias, ReLU; float32, one thread) the same operation is built in NHWC,
lowered and scheduled as `tvmfbnet tune` does it, and in NCHW16c and NCHW8c with weights in OIHWio order, scheduled with
the same pattern (`apply_blocked`). All have the same knobs (without padding inside the loops), the same search (a
cost model per layout, shared by all cases, in `--passes` passes over them) and as many trials, and get their weights
re-laid out in the order in which the tiles read them. Every kernel that is compared computes what numpy does.
The fastest of each search, and those knobs that won in another layout, are timed again in turn, and the best of these
count: the better of the two blocked layouts against NHWC. Prints milliseconds, GFLOP/s and the ratio blocked / NHWC
(below 1: blocked is faster) with its spread over the turns.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
from blocked_kernels import Case, apply_blocked, arrays, as_blocked, blocked, blocked_weights, from_blocked
from figures import report_figure
from tvm import relax
from tvm.driver import build
from tvm.s_tir import Schedule

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.lowering import fuse, kernels_of
from tvmfbnet.compiler.scheduled_kernels import without_prepacking
from tvmfbnet.targets.definition import load_target, resolve

BATCH, FINALISTS = 8, 4


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


@dataclass
class Layout:
    """One side of the comparison: how a case is scheduled, called and read back, and what its search has left."""

    mod: tvm.IRModule
    apply: Callable[[tvm.IRModule, KernelShape, Knobs], Schedule]
    arguments: list[np.ndarray]
    read: Callable[[np.ndarray], np.ndarray]
    lanes: list[int]
    left: list[Knobs] = field(default_factory=list)
    tried: list[tuple[float, Knobs]] = field(default_factory=list)

    def best(self, most: int) -> list[Knobs]:
        """The fastest of its search."""
        return [knobs for _, knobs in sorted(self.tried, key=lambda pair: pair[0])[:most]]

    def candidate(self, shape: KernelShape, knobs: Knobs) -> ScheduleCandidate:
        return ScheduleCandidate.of(self.apply(self.mod, shape, knobs), knobs)


def sides(case: Case, target: tvm.target.Target) -> dict[str, Layout]:
    """NHWC first, then the blocked layouts."""
    image, weights, bias = arrays(case)
    empty = np.zeros((case.size, case.size, case.outputs))
    nhwc = [image[None], weights, bias.reshape(1, 1, 1, -1), empty[None]]
    layouts = {"NHWC": Layout(interleaved(case, target), apply_knobs, nhwc, lambda out: out[0], [16, 8])}
    for block in case.blocks:
        nchwc = [as_blocked(image, block), blocked_weights(case, block), bias.reshape(-1, block)]
        nchwc.append(as_blocked(empty, block))
        layouts[f"NCHW{block}c"] = Layout(blocked(case, block), apply_blocked, nchwc, from_blocked, [block])
    return layouts


class Bench:
    """Builds and times candidates in this process.

    Args:
        target: what for.
        folder: for their libraries.
    """

    def __init__(self, target: tvm.target.Target, folder: Path) -> None:
        self._target, self._folder, self._count, self._random = target, folder, 0, random.Random(0)

    def load(self, candidate: ScheduleCandidate, prepacked: bool = True) -> Any:
        """The kernel's library; with ``prepacked`` its weights are to come as the schedule wants them."""
        mod = without_prepacking(candidate.schedule.mod)
        path = self._folder / f"{self._count}.so"
        self._count += 1
        build(mod if prepacked else candidate.schedule.mod, target=self._target).export_library(str(path))
        return tvm.runtime.load_module(str(path))

    def timer(self, candidate: ScheduleCandidate, min_ms: int = 5) -> Callable[[], float]:
        """A function that times the kernel, milliseconds."""
        rng = np.random.default_rng(0)
        tensors = [
            tvm.runtime.tensor(rng.standard_normal(size).astype(kind), tvm.cpu()) for kind, size in candidate.arguments
        ]
        timed = self.load(candidate).time_evaluator("main", tvm.cpu(), number=3, repeat=2, min_repeat_ms=min_ms)
        return lambda: 1e3 * min(timed(*tensors).results)

    def search(self, layout: Layout, shape: KernelShape, cost_model: TrialCostModel, trials: int) -> None:
        """Spends the trials as `tvmfbnet tune` does: 3/4 of each round by the cost model, the others at random."""
        for _ in range(trials // BATCH):
            left = layout.left
            slowness = cost_model.slowness(cost_model.rows(shape, left)) if left else None
            if slowness is None:
                slowness = [cost_model.heuristic(shape, knobs) + self._random.uniform(0, 0.3) for knobs in left]
            order = [int(index) for index in np.argsort(slowness, kind="stable")]
            explored = min(2, max(0, len(order) - BATCH))
            chosen = order[: BATCH - explored] + self._random.sample(order[BATCH - explored :], explored)
            for knobs in [left[index] for index in chosen]:
                left.remove(knobs)
                latency = self.timer(layout.candidate(shape, knobs))()
                layout.tried.append((latency, knobs))
                cost_model.add(shape, knobs, latency)

    def check(self, layout: Layout, case: Case, candidate: ScheduleCandidate) -> None:
        """Ends the program where a kernel does not compute what numpy does."""
        tensors = [tvm.runtime.tensor(array.astype("float32"), tvm.cpu()) for array in layout.arguments]
        self.load(candidate, prepacked=False)["main"](*tensors)
        actual = layout.read(tensors[-1].numpy())
        np.testing.assert_allclose(actual, expected(case), rtol=1e-3, atol=1e-3, err_msg=f"{case} {candidate.knobs}")


@dataclass(frozen=True)
class Contest:
    """A case, its shape, and the layouts that compete."""

    case: Case
    shape: KernelShape
    layouts: dict[str, Layout]


def contest(case: Case, target: tvm.target.Target) -> Contest:
    layouts = sides(case, target)
    shape = shape_of(layouts["NHWC"].mod)
    if shape is None:
        raise SystemExit(f"no template fits {case}")
    ways = [knobs for knobs in all_knobs(shape, registers_of(target)) if knobs.padding in ("inline", "whole")]
    for layout in layouts.values():  # a blocked tile is made of whole blocks, a vector each
        layout.left = [knobs for knobs in ways if knobs.lanes in layout.lanes]
    return Contest(case, shape, layouts)


def finalists(contest: Contest, layout: Layout) -> list[Knobs]:
    won = [knobs for other in contest.layouts.values() for knobs in other.best(2) if knobs.lanes in layout.lanes]
    return list({knobs.key: knobs for knobs in [*layout.best(FINALISTS), *won]}.values())


def compare(contest: Contest, options: argparse.Namespace, bench: Bench) -> float:
    case, shape, names = contest.case, contest.shape, list(contest.layouts)
    timers, ways = [], []
    for layout in contest.layouts.values():
        ways.append(finalists(contest, layout))
        candidates = [layout.candidate(shape, knobs) for knobs in ways[-1]]
        for candidate in candidates:
            bench.check(layout, case, candidate)
        timers.append([bench.timer(candidate) for candidate in candidates])
    turns = [[[time() for time in side] for side in timers] for _ in range(options.turns)]
    chosen = [int(np.median([turn[side] for turn in turns], axis=0).argmin()) for side in range(len(names))]
    times = np.array([[turn[side][index] for side, index in enumerate(chosen)] for turn in turns])
    better = 1 + int(np.median(times[:, 1:], axis=0).argmin())
    low, ratio, high = np.percentile(times[:, better] / times[:, 0], (10, 50, 90))
    told = ", ".join(
        f"{name} {ms:.4f} ms ({2e-6 * shape.products / ms:.0f} GFLOP/s)"
        for name, ms in zip(names, np.median(times, axis=0), strict=True)
    )
    print(
        f"{case.name} {case.inputs} -> {case.outputs} @{case.size}: {told}; "
        f"{names[better]} / NHWC {ratio:.3f} ({low:.3f} to {high:.3f})",
        flush=True,
    )
    if options.verbose:
        for name, index, finals in zip(names, chosen, ways, strict=True):
            print(f"    {name}: {len(contest.layouts[name].tried)} trials, {finals[index].key}", flush=True)
    return float(ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="host")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="print the winners' knobs")
    options = parser.parse_args()
    target = tvm.target.Target(resolve(load_target(options.target)).tvm)
    ratios: dict[str, list[float]] = {}
    contests = [contest(case, target) for case in CASES if options.only in case.name]
    cost_models: dict[str, TrialCostModel] = {}
    with TemporaryDirectory() as folder:
        bench = Bench(target, Path(folder))  # one for all: a library that was loaded once is found again by its name
        for each in contests * options.passes:
            for name, layout in each.layouts.items():
                cost_model = cost_models.setdefault(name, TrialCostModel(registers_of(target)))
                bench.search(layout, each.shape, cost_model, options.trials // options.passes)
        for each in contests:
            kind = "depthwise" if each.case.depthwise else "1x1"
            ratios.setdefault(kind, []).append(compare(each, options, bench))
    for kind, values in ratios.items():
        mean = float(np.exp(np.mean(np.log(values))))
        report_figure(f"{kind}, blocked over NHWC, geometric mean", mean, "ratio", better="higher")
        print(f"{kind}: geometric mean {np.exp(np.mean(np.log(values))):.3f}, {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    with as_command():
        main()
