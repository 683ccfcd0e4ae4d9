"""Peak memory of random archs: as the search works it out, by the static memory plan, and as TVM's runtime allocates.

    python benchmarks/peak_memory.py --space fbnet_mini --archs 20

Each arch is compiled for this machine, untuned, and run once with TVM's naive allocator, whose bytes in use are read
after every call. Ends with exit code 1 where one of the three figures differs from another.
"""

from __future__ import annotations

import argparse
import random
import sys

import numpy as np
import tvm

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


def main() -> int:
    """Prints one line per arch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--target", default="host")
    parser.add_argument("--archs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    space, target, draw = load_space(given.space), resolve(load_target(given.target)), random.Random(given.seed)
    costs = PeakMemory.of(space, target.data_type)
    print(f"{'search':>9} {'plan':>9} {'runtime':>9} {'sum':>9} {'weights':>9}  arch")
    equal = 0
    for _ in range(given.archs):
        arch = Arch(tuple(draw.choice(layer.blocks) for layer in space.layers))
        text = format_arch(arch, space)
        memory, allocated = measured(arch, space, target)
        worked_out = int(costs.value(choice_of(text, space)))
        equal += worked_out == memory.peak_bytes == allocated
        figures = (worked_out, memory.peak_bytes, allocated, sum(memory.storages), memory.weight_bytes)
        print(" ".join(f"{figure:>9,}" for figure in figures), "", text, flush=True)
    print(f"{equal} of {given.archs} archs: the same to the byte")
    return 0 if equal == given.archs else 1


if __name__ == "__main__":
    sys.exit(main())
