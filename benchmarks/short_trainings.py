"""What a short training says of an arch: its noise and its ranks, for several lengths and ways to train.

    python benchmarks/short_trainings.py --task cluttered

Archs of one latency are trained in full (or the trainings that --truth holds are taken), then briefly, with each recipe
and ``--seeds`` seeds. A recipe is a way and a number of steps: from random weights, from those of a supernet, with a
moving average of the weights, learning from the heaviest net as well. Printed are the mean accuracy, the spread of the
archs, the noise between seeds, Kendall's tau with the full trainings and between two seeds, and the cost of a training.
What is done lies in --out and is not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from figures import report_figure
from scipy.stats import kendalltau
from searching import TRAIN, options, space_and_table, trained_window, window_options

from tvmfbnet.config import validate
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import split_indices
from tvmfbnet.files import read_json, read_yaml, write_json
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.short_training import ShortTraining
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import load_checkpoint, save_checkpoint, seeded
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import train
from tvmfbnet.training.workers import Workers

SEARCH: dict[str, Any] = {
    **{"epochs": 12, "warmup_epochs": 11, "batch_size": 64, "weight_lr": 0.1, "gradient_clip": 2.0},
    **{"augment_shift": 0, "augment_flip": False, "share_weights": True, "weight_paths": "window"},
    **{"weight_steps": "sampled", "theta_steps": "sampled", "validation_images": 4000, "stop_on_collapse": False},
}
_SUPERNET, _HEAVIEST = "supernet", "heaviest"
# What each way needs besides the settings.
WAYS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "average": {"weight_ema": 0.98},
    "warm": {"finalist_start": _SUPERNET},
    "warm_average": {"finalist_start": _SUPERNET, "weight_ema": 0.98},
    "distilled": {"distil_from": _HEAVIEST},
    "warm_distilled": {"finalist_start": _SUPERNET, "distil_from": _HEAVIEST},
}


class Field:
    """What all recipes share: the images, the archs, and what was trained to begin with.

    Args:
        arguments: the command line.
        space, costs: the archs' space, and their latencies.
        target_ms: the window's upper end.
    """

    def __init__(self, arguments: argparse.Namespace, space: Space, costs: AdditiveCosts, target_ms: float) -> None:
        self.arguments, self.space, self._costs, self._target_ms = arguments, space, costs, target_ms
        self.data: ImageData = load_data(arguments.data, space.height, space.width, space.input_channels, space.classes)

    def config(self, **changes: Any) -> SearchConfig:
        """The settings of the short trainings and of the supernet."""
        own = read_yaml(self.arguments.search) if self.arguments.search else {}
        values = {**SEARCH, **own, "latency_target_ms": self._target_ms, "threads": self.arguments.threads, **changes}
        return validate(SearchConfig, values, "search settings")

    def heaviest_net(self) -> Path:
        """The heaviest net, trained as the archs are."""
        folder = self.arguments.out / _HEAVIEST
        if not (folder / "net.pt").exists():
            heaviest = self._supernet_of(self.config()).heaviest_choice()
            arch = Arch(tuple(x.blocks[i] for x, i in zip(self.space.layers, heaviest, strict=True)))
            values = {**(self.arguments.train or TRAIN), "threads": self.arguments.threads}
            train(arch, self.space, self.arguments.data, validate(TrainConfig, values, "training settings"), folder)
        return folder / "net.pt"

    def supernet(self, seed: int) -> Supernet:
        """A supernet, trained with this seed."""
        path, config = self.arguments.out / f"supernet_{seed}.ckpt", self.config(seed=seed)
        with seeded(seed, self.arguments.threads):
            searcher = Searcher(self.space, self.data, self._costs, config)
            if path.exists():
                searcher.load_state_dict(load_checkpoint(path, "supernet")["searcher"])
            while not searcher.finished:
                if searcher.advance():
                    save_checkpoint(path, "supernet", {"identity": {}, "searcher": searcher.state_dict()})
            return searcher.judged_supernet

    def _supernet_of(self, config: SearchConfig) -> Supernet:
        return Searcher(self.space, self.data, self._costs, config).supernet

    def accuracies(self, way: str, steps: int, seed: int, archs: list[Arch]) -> dict[str, Any]:
        """Accuracies of the archs after short trainings, and the mean CPU seconds of one; from its file once done."""
        file = self.arguments.out / "short" / f"{way}_{steps}_{seed}.json"
        if file.exists():
            return dict(read_json(file))
        changes = dict(WAYS[way])
        if changes.get("distil_from"):
            changes["distil_from"] = str(self.heaviest_net())
        config = self.config(seed=seed, finalist_steps=steps, **changes)
        start: Callable[[Arch], ArchNet] | None = None
        if config.finalist_start == _SUPERNET:
            start = self.supernet(seed).extract
        for_weights, others = split_indices(len(self.data.train), config.weight_share, config.seed, config.train_images)
        indices, file_of_trainings = (for_weights, others[: config.validation_images]), file.with_suffix(".trainings")
        with seeded(seed, self.arguments.threads):
            workers = Workers.alone(torch.device("cpu"))
            given = (self.space, self.data, indices, config, workers, {"settings": config.model_dump()})
            trainings = ShortTraining(*given, file_of_trainings, start=start)
            started = time.process_time()
            texts = [format_arch(arch, self.space) for arch in archs]
            done = len(trainings.accuracies.keys() & set(texts))
            accuracies = trainings.evaluate(texts)
        seconds = (time.process_time() - started) / max(1, len(texts) - done)
        write_json(file, {"accuracies": [accuracies[text] for text in texts], "seconds": seconds})
        return dict(read_json(file))


def main() -> None:
    """Prints one row per recipe."""
    arguments = parse()
    space, table = space_and_table(arguments)
    costs = latency_costs(table, space)
    target, archs, truth = trained_window(arguments, space, costs)
    field = Field(arguments, space, costs, target)
    print(f"\n{'recipe':20} {'accuracy':>9} {'spread':>7} {'noise':>7} {'tau':>6} {'of seeds':>9} {'seconds':>8}")
    for way in arguments.ways:
        for steps in arguments.steps:
            rows = [field.accuracies(way, steps, seed, archs) for seed in range(arguments.seeds)]
            print(summary(f"{way} {steps}", rows, truth), flush=True)


def summary(name: str, rows: list[dict[str, Any]], truth: list[float]) -> str:
    """A recipe's line: spread and noise are standard deviations over archs, and over the seeds of one arch."""
    by_seed = [row["accuracies"] for row in rows]
    by_arch = list(zip(*by_seed, strict=True))
    spread = statistics.stdev(statistics.mean(values) for values in by_arch)
    noise = statistics.mean(statistics.variance(values) for values in by_arch) ** 0.5 if len(rows) > 1 else float("nan")
    pairs = [kendalltau(one, other).statistic for one, other in combinations(by_seed, 2)] or [float("nan")]
    taus = [kendalltau(truth, values).statistic for values in by_seed]
    report_figure(f"{name}, Kendall's tau with full trainings", taus, "ratio", better="higher")
    return (
        f"{name:20} {statistics.mean(map(statistics.mean, by_seed)):9.1%} {spread:7.2%} {noise:7.2%} "
        f"{statistics.mean(taus):6.2f} {statistics.mean(pairs):9.2f} {statistics.mean(r['seconds'] for r in rows):8.1f}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = options(__doc__ or "", "short_trainings")
    window_options(parser)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", nargs="+", type=int, default=[150, 400])
    return parser.parse_args()


if __name__ == "__main__":
    main()
