"""Do searches find good nets? Nets found by several strategies against random archs of one latency, trained alike.

``--random`` archs are drawn uniformly among those at most ``--band`` below the latency target, and trained once each,
with one seed. So are the arch with the fewest MACs and the one with the most parameters among many such. Then each
contender searches with each of ``--seeds`` seeds, and what it found is trained by the same settings. A contender is a
strategy and what it may spend, as a multiple of the differentiable search's cost: ``controller:10``. Printed are for
each the accuracy of its nets, the share of the random archs that they beat, and the cost in training images and
minutes, with 95 % intervals over seeds. ``--noise`` trains the first random arch that often more, each time with
another seed: what a difference must exceed.

For contenders that judge whole archs, ``--climb`` also trains every arch that was the best one for a while, and prints
the cost at which such a search first has an arch as good as the differentiable search's.

Every training leaves its result in a file of its own, and searches and trainings continue from their checkpoints: kill
it at any time and start the same command again.

    python benchmarks/search_quality.py --task cluttered
    python benchmarks/search_quality.py --latency-table table.csv --out tiny --seeds 1 --random 2 \\
        --contenders random --search tiny_search.yaml --train tiny_train.yaml
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import report_figure
from scipy.stats import t as student
from searching import archs_between, options, space_and_table, trained, training_option

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.config import validate
from tvmfbnet.data.datasets import load_data
from tvmfbnet.files import read_json, read_yaml, write_json
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.search import SearchResult, search
from tvmfbnet.search.strategies import STRATEGY_NAMES
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
# The archs with the fewest MACs and the most parameters are those of this many random ones of the same latency.
MANY = 2000


@dataclass(frozen=True)
class Contender:
    """A strategy and its budget.

    Attributes:
        strategy: its name.
        cost: of a search, as a multiple of the differentiable search's.
    """

    strategy: str
    cost: float

    @classmethod
    def parse(cls, text: str) -> Contender:
        """``NAME`` or ``NAME:COST``; argparse's error where it is neither."""
        name, _, cost = text.partition(":")
        if name not in STRATEGY_NAMES:
            raise argparse.ArgumentTypeError(f"no strategy is called {name!r}; there are {', '.join(STRATEGY_NAMES)}")
        try:
            multiple = float(cost or 1)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{cost!r} is no multiple of a cost") from error
        if not 0 < multiple < math.inf or (name == "differentiable" and multiple != 1):
            raise argparse.ArgumentTypeError(f"{text!r}: the differentiable search costs 1, others a positive multiple")
        return cls(name, multiple)

    @property
    def name(self) -> str:
        """As it is printed, and its folders are called."""
        return self.strategy if self.cost == 1 else f"{self.strategy}:{self.cost:g}"


@dataclass(frozen=True)
class Field:
    """What all contenders search, and are compared with.

    Attributes:
        arguments: the command line.
        space: the space.
        table: latencies.
        target_ms: the latency target.
        rivals: top-1 accuracy of the random archs.
    """

    arguments: argparse.Namespace
    space: Space
    table: LatencyTable
    target_ms: float
    rivals: tuple[float, ...]

    def accuracy(self, arch: Arch, seed: int = 0) -> float:
        """Top-1 accuracy after a whole training."""
        return float(trained(arch, self.space, self.arguments, seed)["test_accuracy"])

    def beaten(self, accuracy: float) -> float:
        """Share of the random archs that an accuracy exceeds; equal ones count half."""
        worse = sum(rival < accuracy for rival in self.rivals) + sum(rival == accuracy for rival in self.rivals) / 2
        return worse / len(self.rivals)


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of the mean, as shares."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2%}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2%} +- {half:.2%}"


def searched(field: Field, contender: Contender, seed: int) -> SearchResult:
    """One search, or the rest of it."""
    arguments = field.arguments
    settings = {**(read_yaml(arguments.search) if arguments.search else SEARCH), "latency_target_ms": field.target_ms}
    settings |= {"seed": seed, "threads": arguments.threads, "strategy": contender.strategy}
    config = validate(SearchConfig, settings, "search settings")
    if contender.strategy != "differentiable":
        space = field.space
        data = load_data(arguments.data, space.height, space.width, space.input_channels, space.classes)
        budget = round(contender.cost * SearchPlan.of(config, len(data.train)).images)
        config = validate(SearchConfig, {**settings, "budget_images": budget}, "search settings")
    folder = arguments.out / "searches" / f"{contender.name.replace(':', '_')}_{seed}{arguments.label}"
    return search(field.space, arguments.data, field.table, config, folder)


def leaders(folder: Path) -> list[tuple[int, str]]:
    """Archs that were the best one so far when they were evaluated, each with the number of evaluations by then."""
    file = folder / "evaluations.json"
    best, leading = -math.inf, []
    for number, (arch, accuracy) in enumerate(read_json(file)["accuracies"].items(), start=1):
        if accuracy > best:
            best = accuracy
            leading.append((number, arch))
    return leading


def images_until(field: Field, result: SearchResult, goal: float) -> float | None:
    """Training images after which a search first led with an arch of at least ``goal`` accuracy; None for never."""
    count = len(read_json(result.out / "evaluations.json")["accuracies"])
    for number, arch in leaders(result.out):
        if field.accuracy(parse_arch(arch, field.space)) >= goal:
            return result.spent_images * number / count
    return None


def of_seed(field: Field, contender: Contender, seed: int, goal: float | None) -> dict[str, Any]:
    """What a contender found with one seed."""
    result = searched(field, contender, seed)
    accuracy = field.accuracy(parse_arch(result.best.arch, field.space))
    row = {"contender": contender.name, "seed": seed, "arch": result.best.arch, "accuracy": accuracy}
    row |= {"predicted_ms": result.best.predicted_ms, "promised": result.best.accuracy}
    row |= {"beaten_share": field.beaten(accuracy), "spent_images": result.spent_images}
    row |= {"spent_seconds": result.spent_seconds}
    if goal is not None and contender.strategy != "differentiable":
        row["images_until_as_good"] = images_until(field, result, goal)
    print(
        f"  seed {seed}: {accuracy:.2%}, beats {row['beaten_share']:.0%}, {result.spent_images:,.0f} images, "
        f"{result.spent_seconds / 60:.1f} min: {result.best.arch}",
        flush=True,
    )
    return row


def contest(field: Field) -> list[dict[str, Any]]:
    """All contenders with all seeds; prints a summary of each."""
    arguments, rows, goals = field.arguments, [], dict[int, float]()
    for contender in arguments.contenders:
        print(contender.name, flush=True)
        own = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            own.append(of_seed(field, contender, seed, goals.get(seed) if arguments.climb else None))
            if contender.strategy == "differentiable":
                goals[seed] = own[-1]["accuracy"]
        rows += own
        write_json(arguments.out / f"results{arguments.label}.json", rows)
        shares = [row["beaten_share"] for row in own]
        print(
            f"{contender.name}: {interval([row['accuracy'] for row in own])}, beats {interval(shares)} of the random "
            f"archs (least {min(shares):.0%}), {statistics.mean(row['spent_images'] for row in own):,.0f} images, "
            f"{statistics.mean(row['spent_seconds'] for row in own) / 60:.1f} min",
            flush=True,
        )
        report_figure(
            f"{contender.name}, share of random archs beaten", [100 * s for s in shares], "%", better="higher"
        )
        accuracies = [100 * row["accuracy"] for row in own]
        report_figure(f"{contender.name}, accuracy", accuracies, "%", better="higher")
        for row in own:
            if "images_until_as_good" in row:
                images = row["images_until_as_good"]
                print(
                    f"  seed {row['seed']}: as good as the differentiable search after {images or math.inf:,.0f} images"
                )
    return rows


def field_of(arguments: argparse.Namespace) -> Field:
    """Trains what all are compared with, and says how good that is."""
    space, table = space_and_table(arguments)
    costs: AdditiveCosts = latency_costs(table, space)
    target_ms = costs.least + arguments.share * (costs.most - costs.least)
    low_ms = (1 - arguments.band) * target_ms
    rivals = archs_between(space, costs, low_ms, target_ms, arguments.random, 0)
    many = archs_between(space, costs, low_ms, target_ms, MANY, 1)
    empty = Field(arguments, space, table, target_ms, ())
    accuracies = tuple(empty.accuracy(arch) for arch in rivals)
    field = Field(arguments, space, table, target_ms, accuracies)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    print(
        f"{len(rivals)} random archs of {low_ms:.4g} to {target_ms:.4g} ms: {statistics.mean(accuracies):.2%} +- "
        f"{spread:.2%}, best {max(accuracies):.2%}"
    )
    if arguments.noise:
        again = [field.accuracy(rivals[0], 1 + turn) for turn in range(arguments.noise)]
        print(f"one of them {arguments.noise} times: {statistics.mean(again):.2%} +- {statistics.stdev(again):.2%}")
    extremes = {
        "fewest MACs": min(many, key=lambda arch: count_arch(arch, space).macs),
        "most parameters": max(many, key=lambda arch: count_arch(arch, space).params),
    }
    for name, arch in extremes.items():
        accuracy = field.accuracy(arch)
        print(f"{name}: {accuracy:.2%}, beats {field.beaten(accuracy):.0%}: {format_arch(arch, space)}", flush=True)
    return field


def main() -> None:
    parser = options(__doc__ or "", "search_quality")
    parser.add_argument("--share", type=float, default=0.25, help="target, as a share of the way to the slowest net")
    parser.add_argument("--band", type=float, default=0.05, help="how far below the target random archs may lie")
    parser.add_argument("--random", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="so that several processes can share the seeds")
    parser.add_argument(
        "--contenders",
        nargs="+",
        type=Contender.parse,
        default=[Contender(name, 1.0) for name in ("differentiable", "bayesian", "evolution", "controller", "random")],
        metavar="NAME[:COST]",
        help="strategies, and what each may spend as a multiple of the differentiable search",
    )
    parser.add_argument("--climb", action="store_true", help="when did each first reach the differentiable search?")
    parser.add_argument("--noise", type=int, default=0, help="further trainings of the first random arch")
    training_option(parser)
    parser.add_argument("--label", default="", help="of the searches' folders: other settings against the same archs")
    contest(field_of(parser.parse_args()))


if __name__ == "__main__":
    with as_command():
        main()
