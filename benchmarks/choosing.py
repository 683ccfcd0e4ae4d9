"""What choosing the blocks to measure is worth against measuring as many at random.

    python benchmarks/choosing.py pixel3.csv --first 16 --step 8 --until 64

Stem and head are always measured. The chosen set grows in batches, each chosen with what the ones before it showed, as
`tvmfbnet tune --measure` does it; the random sets grow as well. Two errors are told: of the completed table (mean
relative error over all blocks, measured ones counting as exact), and of the predictions alone (mean over the blocks
that were not measured). The first is what a search sees. The second flatters the chooser, who measures what is hardest
to predict. Random choice is averaged over its draws; between counts the curves are read linearly.
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


def errors(truth: dict[NetPart, float], measured: list[NetPart]) -> tuple[float, float]:
    """Mean relative error of the completed table, and of its predictions alone."""
    rest = [part for part in truth if part not in set(measured)]
    regressor = LatencyRegressor().fit(measured, [truth[part] for part in measured])
    predicted, _ = regressor.predict(rest)
    error = np.abs(predicted / np.array([truth[part] for part in rest]) - 1.0)
    return float(error.sum()) / sum(part.part == BLOCK for part in truth), float(error.mean())


def needed(counts: list[int], chosen: list[float], error: float) -> float | None:
    """How many chosen blocks first give an error, read linearly between counts; None where none of them do."""
    for number, own in enumerate(chosen):
        if own <= error:
            if number == 0:
                return float(counts[0])
            share = (chosen[number - 1] - error) / (chosen[number - 1] - own)
            return counts[number - 1] + share * (counts[number] - counts[number - 1])
    return None


def study(file: Path, counts: list[int], draws: int) -> None:
    truth = {p: c.latency_ms for p, c in read_table(file).cells.items() if not p.is_identity and c.latency_ms > 0}
    fixed = [part for part in truth if part.part != BLOCK]
    blocks = [part for part in truth if part.part == BLOCK]
    orders = [random.Random(seed).sample(blocks, len(blocks)) for seed in range(draws)]
    chosen, active, by_luck = list(fixed), [], []
    for count in counts:
        chosen += choose_batch(blocks, count + len(fixed) - len(chosen), {part: truth[part] for part in chosen})
        active.append(errors(truth, chosen))
        by_luck.append(np.mean([errors(truth, [*fixed, *order[:count]]) for order in orders], axis=0))
        table, alone = zip(active[-1], by_luck[-1], strict=True)
        print(
            f"{file.stem:20} {count:3} of {len(blocks)}: table {table[0]:6.2%} chosen, {table[1]:6.2%} random; "
            f"predictions {alone[0]:6.2%} chosen, {alone[1]:6.2%} random",
            flush=True,
        )
    for number, count in enumerate(counts):
        for which, name in enumerate(("table", "predictions")):
            few = needed(counts, [pair[which] for pair in active], float(by_luck[number][which]))
            if few is not None:
                at_most = "at most " if few == counts[0] else ""
                print(
                    f"{file.stem:20} {name:11} what {count} random ones give takes {at_most}{few:.0f} chosen ones "
                    f"({few / count:.0%})"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--first", type=int, default=16, help="blocks measured before the first comparison")
    parser.add_argument("--step", type=int, default=8)
    parser.add_argument("--until", type=int, default=64)
    parser.add_argument("--draws", type=int, default=5, help="random choices to average over")
    options = parser.parse_args()
    for file in options.tables:
        study(file, list(range(options.first, options.until + 1, options.step)), options.draws)


if __name__ == "__main__":
    main()
