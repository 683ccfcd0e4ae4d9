"""Does the search find good nets? The found net against random archs of its latency, all trained in the same way.

For each seed: a search at a latency target; then the found arch, ``--random`` archs drawn uniformly among those whose
latency is within ``--band`` of the found one's, and the one with the fewest MACs among many such, are trained from
scratch with the same settings and seed. Printed are accuracies, the found net's rank, how many random archs it beats,
and Kendall's tau between what the supernet's weights promised for the random archs and what training gave. ``--noise``
trains the found arch of the first seed that often more, each time with another seed: what a difference must exceed.

Every training leaves its result in a file of its own, and searches and trainings continue from their checkpoints: kill
it at any time and start the same command again.

    python benchmarks/search_quality.py --latency-table table.csv --out quality
    python benchmarks/search_quality.py --latency-table table.csv --out tiny --seeds 1 --random 2 \\
        --search tiny_search.yaml --train tiny_train.yaml
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau
from searching import archs_between, options, space_and_table, trained

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.config import validate
from tvmfbnet.files import read_yaml, write_json
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.search import read_result, reopen, search
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.space import Space

# Small enough for an hour or so on two cores; settings files take their place.
SEARCH = {
    **{"epochs": 12, "warmup_epochs": 5, "batch_size": 64, "train_images": 10000, "weight_lr": 0.2},
    **{"gradient_clip": 2.0, "theta_lr": 0.06, "temperature_decay": 0.75, "weight_steps": "sampled"},
    **{"augment_shift": 0, "screened": 32, "screen_images": 512, "candidates": 8, "validation_images": 2000},
    **{"bn_images": 512, "finalists": 24, "finalist_steps": 150},
}
# The arch with the fewest MACs is the best of this many random ones of the same latency.
MANY = 2000


# Rivals come in one fixed order from all archs that may be within the band of whatever the search finds.
_FOUND_ABOVE = 0.97


def promised(folder: Path, archs: list[Arch]) -> list[float]:
    """Accuracy of archs with the weights of a finished search's supernet."""
    result, record = read_result(folder)
    with reopen(result, record) as searcher:
        judge = Judge.of(searcher, searcher.config.bn_images, searcher.config.validation_images)
        return [judge.accuracy(arch) for arch in archs]


def one_seed(
    space: Space, costs: AdditiveCosts, table: Any, arguments: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Searches, trains everything and compares."""
    target = costs.least + arguments.share * (costs.most - costs.least)
    settings = read_yaml(arguments.search) if arguments.search else SEARCH
    changes = {"latency_target_ms": target, "seed": seed, "threads": arguments.threads}
    config = validate(SearchConfig, {**settings, **changes}, "search settings")
    folder = arguments.out / f"search{seed}{arguments.label}"
    best = search(space, arguments.data, table, config, folder).best
    training_seed = 0 if arguments.same_rivals else seed
    mine = trained(parse_arch(best.arch, space), space, arguments, training_seed)
    low, high = (1 - arguments.band) * best.predicted_ms, (1 + arguments.band) * best.predicted_ms
    widest = (_FOUND_ABOVE * (1 - arguments.band) * target, (1 + arguments.band) * target)
    drawn = archs_between(space, costs, *widest, MANY, training_seed)
    rivals = [
        arch for arch in drawn if format_arch(arch, space) != best.arch and low <= table.arch_ms(arch, space) <= high
    ]
    small = trained(min(rivals, key=lambda arch: count_arch(arch, space).macs), space, arguments, training_seed)
    others = [trained(arch, space, arguments, training_seed) for arch in rivals[: arguments.random]]
    accuracies = [record["test_accuracy"] for record in others]
    beaten = sum(mine["test_accuracy"] > accuracy for accuracy in accuracies)
    order = kendalltau(promised(folder, rivals[: arguments.random]), accuracies).statistic
    return {
        "seed": seed,
        "target_ms": target,
        "predicted_ms": best.predicted_ms,
        "found": mine,
        "fewest_macs": small,
        "random": others,
        "random_mean": statistics.mean(accuracies),
        "random_spread": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "random_best": max(accuracies),
        "rank": 1 + sum(accuracy > mine["test_accuracy"] for accuracy in accuracies),
        "beaten_share": beaten / len(accuracies),
        "kendall": float(order),
    }


def main() -> None:
    parser = options(__doc__ or "", "search_quality")
    parser.add_argument("--share", type=float, default=0.25, help="target, as a share of the way to the slowest net")
    parser.add_argument("--band", type=float, default=0.05, help="how far random archs' latency may be off")
    parser.add_argument("--random", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="so that several processes can share the seeds")
    parser.add_argument(
        "--same-rivals", action="store_true", help="one set of random archs and one training seed for all"
    )
    parser.add_argument("--noise", type=int, default=0, help="further trainings of the first found arch")
    parser.add_argument("--train", type=Path, help="settings of the trainings, YAML")
    parser.add_argument("--label", default="", help="of the searches' folders: other searches against the same archs")
    arguments = parser.parse_args()
    space, table = space_and_table(arguments)
    costs = latency_costs(table, space)
    results = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        result = one_seed(space, costs, table, arguments, seed)
        results.append(result)
        write_json(arguments.out / f"results{arguments.label}.json", results)
        print(
            f"seed {seed}: found {result['found']['test_accuracy']:.2%}, fewest MACs "
            f"{result['fewest_macs']['test_accuracy']:.2%}, random {result['random_mean']:.2%} +- "
            f"{result['random_spread']:.2%} (best {result['random_best']:.2%}); rank {result['rank']} of "
            f"{len(result['random']) + 1}, beats {result['beaten_share']:.0%}; Kendall {result['kendall']:.2f}",
            flush=True,
        )
    print(f"all seeds: beats {statistics.mean(result['beaten_share'] for result in results):.0%} of the random archs")
    if arguments.noise:
        arch = parse_arch(results[0]["found"]["arch"], space)
        again = [trained(arch, space, arguments, 1000 + turn)["test_accuracy"] for turn in range(arguments.noise)]
        print(
            f"one arch trained {arguments.noise} times: {statistics.mean(again):.2%} +- {statistics.stdev(again):.2%}"
        )


if __name__ == "__main__":
    with as_command():
        main()
