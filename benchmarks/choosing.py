"""What choosing the blocks to measure is worth against measuring as many at random.

    python benchmarks/choosing.py pixel3.csv --first 16 --step 8 --until 64
    python benchmarks/choosing.py --target host           # a target whose blocks were all tuned and timed

Stem and head are always measured. The chosen set grows in batches, each chosen with what the ones before it showed, as
`tvmfbnet tune --measure` does it; the random sets grow as well. Three errors are told: of whole nets (mean relative
error of the completed table's sums over random archs), which is what a search sees and what the choice is made for; of
the completed table's blocks (mean relative error, measured ones counting as exact); and of the predictions alone (mean
over the blocks that were not measured, which flatters who measures what is hard to predict). Random choice is averaged
over its draws; between counts the curves are read linearly.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from figures import report_figure
from latency_files import table_named

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.latency.active_learning import choose_batch
from tvmfbnet.latency.kernel_sums import if_complete
from tvmfbnet.latency.regressor import LatencyRegressor
from tvmfbnet.latency.repository import load_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import BLOCK, NetPart, Space

Times = Mapping[NetPart, float] | None
ERRORS = ("nets", "table", "predictions")
NETS = 300


def errors(
    truth: dict[NetPart, float], measured: list[NetPart], nets: Sequence[Sequence[NetPart]], kernel_ms: Times
) -> list[float]:
    """Mean relative error of whole nets by the completed table, of its cells, and of its predictions alone."""
    unmeasured = [part for part in truth if part not in set(measured)]
    regressor = LatencyRegressor().fit(measured, [truth[part] for part in measured], kernel_ms)
    predicted, _ = regressor.predict(unmeasured)
    table = {**truth, **dict(zip(unmeasured, predicted, strict=True))}
    error = np.abs(predicted / np.array([truth[part] for part in unmeasured]) - 1.0)
    of_nets = [abs(sum(table[part] for part in net) / sum(truth[part] for part in net) - 1.0) for net in nets]
    return [
        float(np.mean(of_nets)),
        float(error.sum()) / sum(part.part == BLOCK for part in truth),
        float(error.mean()),
    ]


def random_nets(space: Space, truth: dict[NetPart, float]) -> list[list[NetPart]]:
    """Parts of nets drawn with equal probability, those that cost nothing left out."""
    rng = random.Random(0)
    archs = [Arch(tuple(rng.choice(layer.blocks) for layer in space.layers)) for _ in range(NETS)]
    return [[part for part in space.parts_of(arch) if part in truth] for arch in archs]


def needed(counts: list[int], chosen: list[float], error: float) -> float | None:
    """How many chosen blocks first give an error, read linearly between counts; None where none of them do."""
    for number, own in enumerate(chosen):
        if own <= error:
            if number == 0:
                return float(counts[0])
            share = (chosen[number - 1] - error) / (chosen[number - 1] - own)
            return counts[number - 1] + share * (counts[number] - counts[number - 1])
    return None


def study(table: LatencyTable, source: str, space: Space, counts: list[int], draws: int) -> None:
    wanted = set(space.distinct_parts())
    truth = {p: c.latency_ms for p, c in table.cells.items() if p in wanted and not p.is_identity and c.latency_ms > 0}
    kernel_ms = if_complete(table.kernel_ms, list(truth))
    fixed = [part for part in truth if part.part != BLOCK]
    blocks = [part for part in truth if part.part == BLOCK]
    nets = random_nets(space, truth)
    uses = Counter(layer.cell(block) for layer in space.layers for block in layer.blocks)
    orders = [random.Random(seed).sample(blocks, len(blocks)) for seed in range(draws)]
    chosen, active, by_luck = list(fixed), [], []
    for count in counts:
        measured_ms = {part: truth[part] for part in chosen}
        chosen += choose_batch(blocks, count + len(fixed) - len(chosen), measured_ms, uses, kernel_ms=kernel_ms)
        active.append(errors(truth, chosen, nets, kernel_ms))
        lucky = [errors(truth, [*fixed, *order[:count]], nets, kernel_ms) for order in orders]
        by_luck.append(np.mean(lucky, axis=0))
        name = f"{table.name or source}, {count} chosen blocks, error of nets"
        report_figure(name, 100 * active[-1][0], "%", better="lower", exact=True)
        told = "; ".join(
            f"{kind} {own:6.2%} chosen, {other:6.2%} random"
            for kind, own, other in zip(ERRORS, active[-1], by_luck[-1], strict=True)
        )
        print(f"{table.name:20} {count:3} of {len(blocks)}: {told}", flush=True)
    for number, count in enumerate(counts):
        for which, name in enumerate(ERRORS):
            few = needed(counts, [pair[which] for pair in active], float(by_luck[number][which]))
            if few is not None:
                at_most = "at most " if few == counts[0] else ""
                print(
                    f"{table.name:20} {name:12} what {count} random ones give takes {at_most}{few:.0f} chosen ones "
                    f"({few / count:.0%})"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help="CSV files, or simulated processors: simulated:gflops=16,gbps=3")
    parser.add_argument("--target", help="the table of a target, with what its kernels took in tuning")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--first", type=int, default=16, help="blocks measured before the first comparison")
    parser.add_argument("--step", type=int, default=8)
    parser.add_argument("--until", type=int, default=64)
    parser.add_argument("--space", default="fbnet", help="that the tables are of")
    parser.add_argument("--last-channels", type=int, default=1984, help="outputs of the head in the files")
    parser.add_argument("--draws", type=int, default=5, help="random choices to average over")
    options = parser.parse_args()
    counts = list(range(options.first, options.until + 1, options.step))
    if options.target:
        study(
            load_table(options.target, options.tuning_logs),
            options.target,
            load_space(options.space),
            counts,
            options.draws,
        )
    space = load_space(options.space).with_last_channels(options.last_channels)
    for name in options.tables:
        study(table_named(name, space), Path(name).stem, space, counts, options.draws)


if __name__ == "__main__":
    with as_command():
        main()
