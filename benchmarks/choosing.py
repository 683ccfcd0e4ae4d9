"""Error of the parts that were left out, by how many were measured: chosen by uncertainty against chosen at random.

    python benchmarks/choosing.py pixel3.csv --first 16 --step 8 --until 64

Stem and head are always measured. The chosen set grows in batches, each chosen with what the ones before it showed; the
random sets grow as well. Both are judged on the table that they complete: the mean relative error over all blocks,
those that were measured counting as exact.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from tvmfbnet.latency.choose import choose_batch
from tvmfbnet.latency.foreign import read_table
from tvmfbnet.latency.regressor import LatencyRegressor
from tvmfbnet.space.space import BLOCK, NetPart


def table_error(truth: dict[NetPart, float], measured: list[NetPart]) -> float:
    rest = [part for part in truth if part not in set(measured)]
    regressor = LatencyRegressor().fit(measured, [truth[part] for part in measured])
    predicted, _ = regressor.predict(rest)
    error = np.abs(predicted / np.array([truth[part] for part in rest]) - 1.0)
    return float(error.sum()) / sum(part.part == BLOCK for part in truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--first", type=int, default=16, help="blocks measured before the first comparison")
    parser.add_argument("--step", type=int, default=8)
    parser.add_argument("--until", type=int, default=64)
    parser.add_argument("--draws", type=int, default=5, help="random choices to average over")
    options = parser.parse_args()
    counts = list(range(options.first, options.until + 1, options.step))
    for file in options.tables:
        truth = {p: c.latency_ms for p, c in read_table(file).cells.items() if not p.is_identity and c.latency_ms > 0}
        fixed = [part for part in truth if part.part != BLOCK]
        blocks = [part for part in truth if part.part == BLOCK]
        chosen = list(fixed)
        active, by_luck = [], []
        orders = [random.Random(seed).sample(blocks, len(blocks)) for seed in range(options.draws)]
        for count in counts:
            chosen += choose_batch(blocks, count + len(fixed) - len(chosen), {part: truth[part] for part in chosen})
            active.append(table_error(truth, chosen))
            by_luck.append(float(np.mean([table_error(truth, [*fixed, *order[:count]]) for order in orders])))
            print(
                f"{file.stem:20} {count:3} of {len(blocks)}: chosen {active[-1]:6.2%}, random {by_luck[-1]:6.2%}",
                flush=True,
            )
        for count, error in zip(counts, by_luck, strict=True):
            reached = next((few for few, own in zip(counts, active, strict=True) if own <= error), None)
            if reached is not None:
                print(
                    f"{file.stem:20} what {count} random ones give takes {reached} chosen ones ({reached / count:.0%})"
                )


if __name__ == "__main__":
    main()
