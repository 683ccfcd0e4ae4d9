"""Which way of timing blocks predicts whole nets best: alone, around copies of their weights, or inside nets.

    python benchmarks/protocols.py --space fbnet --target host [--tuning-logs DIR] [--nets 40]

The target's tuning logs must hold a tuned space (`tvmfbnet tune`). The nets are those of `tvmfbnet latency validate`
with the same seed; those that the journal lacks are timed. The two other protocols are timed here and stay out of the
journal. Prints bias, MAPE and rank correlation of each protocol's sums, nothing corrected.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import report_figure

from tvmfbnet.autotune.database import TuningDatabase, existing_database
from tvmfbnet.autotune.plan import Plan
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.export import part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build
from tvmfbnet.deploy.whole_nets import measure_nets
from tvmfbnet.latency.additivity import study
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.measurement import summarise
from tvmfbnet.latency.repository import load_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.pipeline.tuning import plan_space
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.parts import context_of, weight_copies
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import Target, load_target, resolve


def time_alone(plan: Plan, target: Target, database: TuningDatabase) -> dict[str, LatencyTable]:
    """Every part alone in a loop, with one copy of its weights and with as many as fill the caches."""
    compiled_for = target.for_tvm()
    cells: dict[str, dict] = {"alone, call after call": {}, "around copies of the weights": {}}
    with connect_device(target) as endpoint, device_timer(target, endpoint) as timer, TemporaryDirectory() as folder:
        overhead = timer.overhead_ms()
        for part, mod in plan.parts.items():
            many = weight_copies(mod, target)
            for name, copies in zip(cells, (1, many), strict=True):
                if copies == 1 and many == 1 and name != next(iter(cells)):
                    cells[name][part] = cells[next(iter(cells))][part]
                    continue
                path = Path(folder) / f"{part.slug}{copies}.so"
                library = save_library(build(mod, compiled_for, database.records, copies), path, target)
                latency = float(summarise(timer.time(library, part_input_shape(part)))["latency_ms"])
                cells[name][part] = Cell(max(latency - overhead, 0.0) / copies)
    return {name: LatencyTable(parts, overhead, target.name) for name, parts in cells.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--target", default="host")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--nets", type=int, default=40)
    parser.add_argument("--rotate-mb", type=float, default=48, help="copies of a part's weights, MiB together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    space, target = load_space(options.space), resolve(load_target(options.target))
    plan = plan_space(space, target)
    database = existing_database(target, options.tuning_logs)
    tables = {"inside nets": load_table(target.name, options.tuning_logs, context_of(target))}
    policy = target.timing.model_copy(update={"rotate_mb": options.rotate_mb})
    tables |= time_alone(plan, target.model_copy(update={"timing": policy}), database)
    generator = random.Random(options.seed)
    archs = dict.fromkeys(
        Arch(tuple(generator.choice(layer.blocks) for layer in space.layers)) for _ in range(options.nets)
    )
    nets = measure_nets(space, load_target(options.target), list(archs), options.tuning_logs)
    measured = {arch: item.at_table_speed_ms for arch, item in nets.items()}
    for name, table in tables.items():
        agreement = study(replace(table, correction=""), space, measured).agreement
        report_figure(f"{name}, MAPE", 100 * agreement.mean_error, "%", better="lower")
        report_figure(f"{name}, Spearman", agreement.spearman, "ratio", better="higher")
        print(
            f"{name:30} bias {agreement.bias:+.2%}, MAPE {agreement.mean_error:.2%}, "
            f"Spearman {agreement.spearman:.4f}, Kendall {agreement.kendall:.4f}, worst {agreement.worst_error:+.2%}"
        )


if __name__ == "__main__":
    with as_command():
        main()
