"""One search for a front against separate searches at equal total cost, on the table of truth NAS-Bench-Macro.

For each strategy and number of evaluations: one search for a front, and as many separate searches as it has latency
bounds, each with its part of the evaluations. With ``--alone`` the search for a front is also started for each bound
separately (``alone``): what sharing is worth beside the model of accuracy. Regret is how much less accurate, in
percentage points of the mean of three trainings, the chosen net is than the best net up to the bound; printed is its
mean over bounds and seeds with a 95 % interval from the seeds. ``within`` is the share of the front's nets whose true
accuracy lies within two standard deviations of the predicted one.

    python benchmarks/front.py --table nas-bench-macro_cifar10.json
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import report_figure
from truth_tables import Truth, macro_space, macro_truths

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.files import write_json
from tvmfbnet.search.front.nets import front_bounds
from tvmfbnet.search.front.shared_search import Front, search_front
from tvmfbnet.search.quantities.macs import macs_costs
from tvmfbnet.search.strategies import STRATEGY_NAMES, strategy_named
from tvmfbnet.search.strategies.evaluating import EvaluatingStrategy, uniform_log_probabilities


def at_bounds(front: Front, bounds: Sequence[float]) -> list[str]:
    """The front's net for each bound: the slowest that meets it, which is the most accurate."""
    return [[net.arch for net in front.nets if net.predicted_ms <= bound][-1] for bound in bounds]


def one_seed(
    truths: Sequence[Truth], strategy: EvaluatingStrategy, evaluations: int, seed: int, with_alone: bool
) -> dict[str, Any]:
    """Mean regret of each way, and the front's calibration.

    Args:
        truths: one for each bound, ascending.
        strategy: searches.
        evaluations: of all bounds together.
        seed: of search and trainings.
        with_alone: also start the search for a front at each bound separately.
    """
    bounds, each = [truth.bound for truth in truths], evaluations // len(truths)
    logs = uniform_log_probabilities(truths[-1].space)
    whole = replace(truths[-1].problem(evaluations, seed), constraints=())
    front = search_front(whole, bounds, strategy.rank, logs)
    shared = [truth.regret(arch) for truth, arch in zip(truths, at_bounds(front, bounds), strict=True)]
    separate, alone = [], []
    for truth in truths:
        separate.append(truth.regret(strategy.rank(truth.problem(each, seed))[0].arch))
        if with_alone:
            single = search_front(truth.problem(each, seed), [truth.bound], strategy.rank, logs)
            alone.append(truth.regret(single.nets[-1].arch))
    true = [truths[-1].best - truths[-1].regret(net.arch) for net in front.nets]
    nets = zip(true, front.nets, strict=True)
    within = [abs(accuracy - 100 * net.accuracy) <= 200 * net.accuracy_spread for accuracy, net in nets]
    return {
        "front": statistics.mean(shared),
        "separate": statistics.mean(separate),
        **({"alone": statistics.mean(alone)} if alone else {}),
        "regrets": shared,
        "within": statistics.mean(within),
        "nets": len(front.nets),
    }


def ways_of(with_alone: bool) -> tuple[str, ...]:
    """What is compared."""
    return ("front", "separate", "alone") if with_alone else ("front", "separate")


def interval(values: Sequence[float]) -> str:
    """Mean and the half width of its 95 % interval."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):6.3f} +- {half:5.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="nas-bench-macro_cifar10.json")
    parser.add_argument("--evaluations", default="48,96,192", help="in all, for all bounds together")
    parser.add_argument("--bounds", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--strategies", help="all that judge whole archs, if not given")
    parser.add_argument("--alone", action="store_true", help="also compare with it")
    parser.add_argument("--out", type=Path, help="a JSON file with the figures of every seed")
    arguments = parser.parse_args()
    names = arguments.strategies.split(",") if arguments.strategies else STRATEGY_NAMES
    strategies = [s for s in map(strategy_named, names) if isinstance(s, EvaluatingStrategy)]
    bounds = front_bounds(macs_costs(macro_space()), (), arguments.bounds)
    truths = macro_truths(arguments.table, bounds)
    records = []
    print(f"mean regret over {arguments.bounds} bounds, percentage points; {arguments.seeds} seeds")
    for evaluations in map(int, arguments.evaluations.split(",")):
        for strategy in strategies:
            seeds = [one_seed(truths, strategy, evaluations, seed, arguments.alone) for seed in range(arguments.seeds)]
            ways = ", ".join(f"{way} {interval([s[way] for s in seeds])}" for way in ways_of(arguments.alone))
            for way in ways_of(arguments.alone):
                name = f"{evaluations} evaluations, {strategy.name}, {way}, regret in points"
                report_figure(name, statistics.mean(s[way] for s in seeds), "%", better="lower", exact=True)
            wins = statistics.mean(s["front"] < s["separate"] for s in seeds)
            print(
                f"{evaluations:4} evaluations, {strategy.name:10} {ways}; front better in {wins:4.0%} of the seeds, "
                f"{statistics.mean(s['nets'] for s in seeds):.1f} nets, "
                f"within {statistics.mean(s['within'] for s in seeds):.0%}",
                flush=True,
            )
            records.append({"evaluations": evaluations, "strategy": strategy.name, "seeds": seeds})
    if arguments.out is not None:
        write_json(arguments.out, records)


if __name__ == "__main__":
    with as_command():
        main()
