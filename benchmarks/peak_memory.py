"""Peak memory of random archs: as the search works it out, by the static memory plan, and as TVM's runtime allocates.

    python benchmarks/peak_memory.py --space fbnet_mini --archs 20
    python benchmarks/peak_memory.py --space fbnet --over-live 1000

With ``--over-live`` nothing is compiled: it prints how much more the plans of random archs take than what their largest
block has live at once. Otherwise each arch is compiled for this machine, untuned, and run once with TVM's naive
allocator, whose bytes in use are read after every call. Ends with exit code 1 where one of the three figures differs
from another.
"""

from __future__ import annotations

import argparse
import random
import sys

import numpy as np
import tvm
from figures import report_figure

from tvmfbnet.compiler.export import export_net
from tvmfbnet.compiler.lowering import build_prepared, lower, plan_memory, prepare
from tvmfbnet.compiler.memory_plan import NetMemory, net_memory
from tvmfbnet.deploy.package import random_images, untrained_net
from tvmfbnet.profiling.allocated_memory import allocated_peak
from tvmfbnet.search.derive import choice_of
from tvmfbnet.search.quantities.peak_memory import PeakMemory
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import ResolvedTarget, load_target, resolve


def measured(arch: Arch, space: Space, target: ResolvedTarget) -> tuple[NetMemory, int]:
    """The memory of a compiled net by its plan, and the peak that TVM's allocator had in use."""
    dtype, compiled_for = target.data_type, target.for_tvm()
    model = export_net(untrained_net(arch, space).eval(), dtype, random_images(space, dtype))
    prepared = prepare(lower(model, compiled_for), compiled_for, None)
    image = np.zeros((1, space.input_channels, space.height, space.width), dtype.boundary)
    executable = build_prepared(prepared, compiled_for)
    return net_memory(plan_memory(prepared, compiled_for)), allocated_peak(executable, tvm.runtime.tensor(image))


def over_live(costs: PeakMemory, costs_of: str, count: int, draw: random.Random) -> None:
    """Prints quantiles of plan over lower bound, and the share of archs that reach it."""
    ratios = []
    for _ in range(count):
        choice = tuple(draw.randrange(len(row)) for row in costs.cells)
        live = max(costs.fixed, *(row[index] for row, index in zip(costs.cells, choice, strict=True)))
        ratios.append(costs.value(choice) / live)
    low, middle, high = np.quantile(ratios, [0.0, 0.5, 0.9])
    equal = sum(ratio == 1 for ratio in ratios) / count
    print(f"plan over live: least {low:.2f}, median {middle:.2f}, 90th percentile {high:.2f}, most {max(ratios):.2f}")
    print(f"equal in {equal:.1%} of {count} archs")
    report_figure(f"{costs_of}, plan over lower bound, median", middle, "ratio", better="lower", exact=True)
    report_figure(f"{costs_of}, plan over lower bound, largest", max(ratios), "ratio", better="lower", exact=True)


def main() -> int:
    """Prints one line per arch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--target", default="host")
    parser.add_argument("--archs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--over-live", type=int, metavar="ARCHS")
    given = parser.parse_args()
    space, target, draw = load_space(given.space), resolve(load_target(given.target)), random.Random(given.seed)
    costs = PeakMemory.of(space, target.data_type)
    if given.over_live:
        over_live(costs, given.space, given.over_live, draw)
        return 0
    print(f"{'search':>9} {'plan':>9} {'runtime':>9} {'sum':>9} {'weights':>9}  arch")
    equal, peaks = 0, []
    for _ in range(given.archs):
        arch = Arch(tuple(draw.choice(layer.blocks) for layer in space.layers))
        text = format_arch(arch, space)
        memory, allocated = measured(arch, space, target)
        worked_out = int(costs.value(choice_of(text, space)))
        peaks.append(memory.peak_bytes)
        equal += worked_out == memory.peak_bytes == allocated
        figures = (worked_out, memory.peak_bytes, allocated, sum(memory.storages), memory.weight_bytes)
        print(" ".join(f"{figure:>9,}" for figure in figures), "", text, flush=True)
    print(f"{equal} of {given.archs} archs: the same to the byte")
    share, mean = 100 * equal / given.archs, sum(peaks) / len(peaks)
    report_figure(f"{given.space}, archs whose three peaks are equal", share, "%", better="higher", exact=True)
    report_figure(f"{given.space}, peak memory, mean of archs", mean, "bytes", better="lower", exact=True)
    return 0 if equal == given.archs else 1


if __name__ == "__main__":
    sys.exit(main())
