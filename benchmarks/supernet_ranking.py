"""How well a supernet ranks archs of one latency, with each way of training it, alone and together.

    python benchmarks/supernet_ranking.py --task cluttered

Draws archs whose latency lies within a narrow window, trains each of them (or takes the trainings that --truth holds),
then trains supernets and compares: Kendall's tau between the archs' trained accuracy and their accuracy with the
supernet's weights, and between trained accuracy and theta's log probability of the archs. All recipes spend about as
many training images, by their number of epochs. What is done lies in --out and is not repeated.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import torch
from figures import report_figure
from scipy.stats import kendalltau
from searching import options, space_and_table, trained_window, window_options

from tvmfbnet.config import validate
from tvmfbnet.data.datasets import load_data
from tvmfbnet.files import read_json, read_yaml, write_json
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import seeded

# About five minutes on one core: 12 epochs of 16 000 images, most of them of w alone.
SEARCH: dict[str, Any] = {
    **{"epochs": 12, "warmup_epochs": 11, "batch_size": 64, "theta_batch_size": 256, "weight_lr": 0.1},
    **{"gradient_clip": 2.0, "theta_lr": 0.06, "weight_steps": "sampled", "theta_steps": "sampled", "augment_shift": 0},
    **{"augment_flip": False, "bn_images": 1024, "stop_on_collapse": False},
}
# Settings for theta's own figure; where a recipe says how theta learns, it does in the last third of the search.
_THETA: dict[str, Any] = {"temperature": 1.0, "temperature_decay": 0.7}
_TOGETHER: dict[str, Any] = {"share_weights": True, "weight_paths": "window"}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"weight_paths": "window"},
    "fair": {"weight_paths": "fair", "step_paths": 9},
    "sandwich": {"sandwich": True, "step_paths": 2},
    "ema": {"weight_ema": 0.99},
    "shared": {"share_weights": True},
    "tuned": {"tune_steps": 50},
    "shared_window": _TOGETHER,
    "shared_window_ema": {**_TOGETHER, "weight_ema": 0.99},
    "shared_window_sandwich": {**_TOGETHER, "sandwich": True, "step_paths": 2},
    "shared_window_tuned": {**_TOGETHER, "tune_steps": 50},
    "theta_mixture": {**_TOGETHER, **_THETA, "theta_steps": "mixture"},
    "theta_sampled": {**_TOGETHER, **_THETA, "theta_steps": "sampled"},
    "theta_fitted": {**_TOGETHER, **_THETA, "theta_steps": "fitted"},
}


def main() -> None:
    """Prints one row per recipe."""
    arguments = parse()
    space, table = space_and_table(arguments)
    costs = latency_costs(table, space)
    target, archs, truth = trained_window(arguments, space, costs)
    print(f"\n{'recipe':24} {'accuracy':>9} {'tau by seed':>24} {'mean':>6} {'of theta':>9} {'minutes':>8}")
    for name in arguments.recipes:
        rows = [judged(name, seed, arguments, space, costs, target, archs) for seed in range(arguments.seeds)]
        taus = [kendalltau(truth, row["accuracies"]).statistic for row in rows]
        of_theta = [kendalltau(truth, row["log_probabilities"]).statistic for row in rows]
        report_figure(f"{name}, Kendall's tau with trained accuracies", taus, "ratio", better="higher")
        print(
            f"{name:24} {statistics.mean(statistics.mean(row['accuracies']) for row in rows):9.1%} "
            f"{' '.join(f'{tau:7.2f}' for tau in taus):>24} {statistics.mean(taus):6.2f} "
            f"{statistics.mean(of_theta):9.2f} {statistics.mean(row['seconds'] for row in rows) / 60:8.1f}",
            flush=True,
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__ or "", "supernet_ranking")
    window_options(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    return parser.parse_args()


def judged(
    name: str,
    seed: int,
    arguments: argparse.Namespace,
    space: Space,
    costs: AdditiveCosts,
    target: float,
    archs: list[Arch],
) -> dict[str, Any]:
    """What one supernet says of the archs, from its file where it was trained before."""
    file = arguments.out / "supernets" / f"{name}_{seed}.json"
    if file.exists():
        return dict(read_json(file))
    data = load_data(arguments.data, space.height, space.width, space.input_channels, space.classes)
    base = {**SEARCH, **(read_yaml(arguments.search) if arguments.search else {}), "latency_target_ms": target}
    base |= {"seed": seed, "threads": arguments.threads}
    config = of_equal_cost(base, RECIPES[name], len(data.train))
    started = time.process_time()
    with seeded(seed, arguments.threads):
        searcher = Searcher(space, data, costs, config)
        while not searcher.finished:
            searcher.advance()
        judge = Judge.of(searcher, config.bn_images, config.validation_images, tuned=True)
        accuracies = [judge.accuracy(arch) for arch in archs]
    with torch.no_grad():
        logs = searcher.supernet.log_probabilities().tolist()
    choices = [searcher.supernet.choice_of(arch) for arch in archs]
    row = {
        "archs": [format_arch(arch, space) for arch in archs],
        "accuracies": accuracies,
        "log_probabilities": [sum(r[i] for r, i in zip(logs, choice, strict=True)) for choice in choices],
        "settings": config.model_dump(),
        "seconds": time.process_time() - started,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, row)
    return row


def of_equal_cost(base: dict[str, Any], changes: dict[str, Any], images: int) -> SearchConfig:
    """Settings with the number of epochs that costs what those of ``base`` do, in training images of w and theta."""

    def cost(config: SearchConfig) -> float:
        return SearchPlan.of(config.model_copy(update={"candidates": 1, "screened": 1, "tune_steps": 0}), images).images

    if "theta_steps" in changes:
        changes = {**changes, "warmup_epochs": base["epochs"] * 2 // 3}
    plain, config = validate(SearchConfig, base, "search settings"), validate(SearchConfig, {**base, **changes}, "")
    epochs = max(2, math.floor(config.epochs * cost(plain) / cost(config) + 0.5))
    warmup = min(epochs - 1, round(config.warmup_epochs * epochs / config.epochs))
    return config.model_copy(update={"epochs": epochs, "warmup_epochs": warmup})


if __name__ == "__main__":
    main()
