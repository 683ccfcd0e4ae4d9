"""Does the search find good nets? The found net against random archs of the same latency, all trained alike.

For each seed: a search at a latency target; then the found arch, ``--random`` archs drawn uniformly among those whose
latency is within ``--band`` of the found one's, and the one with the fewest MACs among many such, are trained from
scratch with the same settings and seed. Printed are accuracies, the found net's rank, and how many random archs it
beats.

Every training leaves its result in a file of its own, and searches and trainings continue from their checkpoints: kill
it at any time and start the same command again.

    python benchmarks/search_quality.py --latency-table table.csv --out quality
    python benchmarks/search_quality.py --latency-table table.csv --out tiny --seeds 1 --random 2 \\
        --search tiny_search.yaml --train tiny_train.yaml
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.config import validate
from tvmfbnet.files import read_json, read_yaml, write_json
from tvmfbnet.latency.foreign import read_csv
from tvmfbnet.latency.regressor import complete
from tvmfbnet.latency.store import load_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.costs import Costs
from tvmfbnet.search.derive import choices_between
from tvmfbnet.search.run import search
from tvmfbnet.space.arch import Arch, format_arch, parse_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.run import train

SEARCH = {
    **{"epochs": 20, "warmup_epochs": 8, "batch_size": 64, "train_images": 20000, "weight_lr": 0.2},
    **{"gradient_clip": 2.0, "theta_lr": 0.04, "temperature_decay": 0.85, "weight_steps": "sampled"},
    **{"augment_shift": 0, "screened": 48, "candidates": 10, "validation_images": 4000},
}
TRAIN = {
    **{"epochs": 5, "warmup_epochs": 0.3, "batch_size": 64, "lr": 0.06, "label_smoothing": 0.0, "augment_shift": 0},
    **{"weight_decay": 5e-4, "ema_decay": 0.998, "train_images": 20000},
}
# The arch with the fewest MACs is the best of so many random ones of the latency.
MANY = 2000


def archs_near(space: Space, costs: Costs, latency_ms: float, band: float, count: int, seed: int) -> list[Arch]:
    """Archs drawn uniformly among those whose latency is within ``band`` (a share) of ``latency_ms``."""
    uniform = [[-math.log(len(layer.blocks))] * len(layer.blocks) for layer in space.layers]
    generator = torch.Generator().manual_seed(seed)
    bounds = ((1 - band) * latency_ms, (1 + band) * latency_ms)
    drawn = choices_between(uniform, costs, *bounds, 2 * count, generator)[:count]
    return [Arch(tuple(x.blocks[i] for x, i in zip(space.layers, choice, strict=True))) for choice in drawn]


def trained(arch: Arch, role: str, space: Space, table: LatencyTable, arguments: argparse.Namespace, seed: int) -> Any:
    """The record of one training, from its file where it was done before."""
    path = arguments.out / f"seed{seed}" / f"{role}.json"
    if path.exists():
        record = read_json(path)
        if record["arch"] == format_arch(arch, space):
            return record
    settings = read_yaml(arguments.train) if arguments.train else TRAIN
    config = validate(TrainConfig, {**settings, "seed": seed, "threads": arguments.threads}, "training settings")
    result = train(arch, space, arguments.data, config, arguments.out / f"seed{seed}" / f"train_{role}")
    record = {
        "role": role,
        "arch": format_arch(arch, space),
        "predicted_ms": table.arch_ms(arch, space),
        "macs": count_arch(arch, space).macs,
        "test_accuracy": result.test_accuracy,
    }
    write_json(path, record)
    return record


def one_seed(space: Space, table: LatencyTable, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Searches, trains everything and compares."""
    costs = Costs.of(table, space)
    target = costs.fastest_ms + arguments.share * (costs.slowest_ms - costs.fastest_ms)
    settings = read_yaml(arguments.search) if arguments.search else SEARCH
    changes = {"latency_target_ms": target, "seed": seed, "threads": arguments.threads}
    config = validate(SearchConfig, {**settings, **changes}, "search settings")
    found = search(space, arguments.data, table, config, arguments.out / f"seed{seed}" / "search").best
    near = archs_near(space, costs, found.predicted_ms, arguments.band, MANY, seed)
    rivals = [arch for arch in near if format_arch(arch, space) != found.arch]
    smallest = min(rivals, key=lambda arch: count_arch(arch, space).macs)
    mine = trained(parse_arch(found.arch, space), "found", space, table, arguments, seed)
    small = trained(smallest, "fewest_macs", space, table, arguments, seed)
    others = [
        trained(arch, f"random{number:02}", space, table, arguments, seed)
        for number, arch in enumerate(rivals[: arguments.random])
    ]
    accuracies = [record["test_accuracy"] for record in others]
    beaten = sum(mine["test_accuracy"] > accuracy for accuracy in accuracies)
    return {
        "seed": seed,
        "target_ms": target,
        "found": mine,
        "fewest_macs": small,
        "random_mean": statistics.mean(accuracies),
        "random_spread": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "random_best": max(accuracies),
        "rank": 1 + sum(accuracy > mine["test_accuracy"] for accuracy in accuracies),
        "beaten_share": beaten / len(accuracies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--data", default="fashion_mnist")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--latency-table", type=Path)
    source.add_argument("--target")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--share", type=float, default=0.35, help="target, as a share of the way to the slowest net")
    parser.add_argument("--band", type=float, default=0.05, help="how far random archs' latency may be off")
    parser.add_argument("--random", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--search", type=Path, help="settings of the search, YAML")
    parser.add_argument("--train", type=Path, help="settings of the trainings, YAML")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("search_quality"))
    arguments = parser.parse_args()
    space = load_space(arguments.space)
    if arguments.latency_table:
        table = read_csv(arguments.latency_table)
    else:
        table = complete(load_table(arguments.target, arguments.tuning_logs), space.distinct_parts())
    results = []
    for seed in range(arguments.seeds):
        result = one_seed(space, table, arguments, seed)
        results.append(result)
        write_json(arguments.out / "results.json", results)
        print(
            f"seed {seed}: found {result['found']['test_accuracy']:.2%}, fewest MACs "
            f"{result['fewest_macs']['test_accuracy']:.2%}, random {result['random_mean']:.2%} +- "
            f"{result['random_spread']:.2%} (best {result['random_best']:.2%}); rank {result['rank']} of "
            f"{arguments.random + 1}, beats {result['beaten_share']:.0%}",
            flush=True,
        )
    print(f"all seeds: beats {statistics.mean(result['beaten_share'] for result in results):.0%} of the random archs")


if __name__ == "__main__":
    main()
