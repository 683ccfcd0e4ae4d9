"""Shared by the benchmarks of the search: options for space, data and latencies."""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from search_tasks import TaskOption, known_training

from tvmfbnet.config import validate
from tvmfbnet.files import read_json, read_yaml, write_json
from tvmfbnet.latency.sources.source import latency_table
from tvmfbnet.latency.sources.target import TargetSource
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.draw import Window, choices_between
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart, Space
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import train

# So short that a dozen nets can be compared within half an hour on two cores.
TRAIN = {
    **{"epochs": 2, "warmup_epochs": 0.2, "batch_size": 64, "lr": 0.06, "label_smoothing": 0.0, "augment_shift": 0},
    **{"weight_decay": 5e-4, "ema_decay": 0.99, "train_images": 15000},
}

# Draws of archs before fewer than asked for are taken.
_DRAWS = 20


def options(text: str, out: str) -> argparse.ArgumentParser:
    """A parser with the options that say what is searched, on which images, by which latencies."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action=TaskOption, metavar="NAME", help="of benchmarks/tasks: says all that follows")
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--data", default="fashion_mnist")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--latency-table", help="a CSV file, or a simulated processor: simulated:gflops=16,gbps=3")
    source.add_argument("--target", help="a target that was tuned")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument(
        "--shrink", metavar="SIZE", help="search grey images of this size, at the latencies of the whole space"
    )
    parser.add_argument("--last-channels", type=int, help="outputs of the head in the table, with --shrink")
    parser.add_argument("--search", type=Path, help="settings of the searches, YAML")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def space_and_table(arguments: argparse.Namespace) -> tuple[Space, LatencyTable]:
    """The space and its latency table, whole."""
    if not (arguments.latency_table or arguments.target):
        raise SystemExit("give --task, --latency-table or --target")
    space = load_space(arguments.space)
    if arguments.last_channels is not None:
        space = space.with_last_channels(arguments.last_channels)
    if arguments.latency_table and arguments.latency_table.startswith("simulated:"):
        table = LatencyTable.load(arguments.latency_table, space)
    elif arguments.latency_table:
        table = read_table(Path(arguments.latency_table))
    else:
        # The plain table: these searches are judged by it, and by no net that was timed.
        table = latency_table(TargetSource(arguments.target, arguments.tuning_logs), space, correct=False)
    if arguments.shrink is None:
        return space, table
    small = shrunk(arguments.space, arguments.shrink)
    return small, carried_over(table, space, small)


def shrunk(space: str, size: str, channels: int = 1, classes: int = 10) -> Space:
    """A space at a smaller resolution, for other images: what a machine without GPUs can search in minutes."""
    return replace(load_space(f"{space}@{size}"), input_channels=channels, classes=classes)


def carried_over(table: LatencyTable, measured: Space, searched: Space) -> LatencyTable:
    """The table of a second space: each part has its counterpart's latency, layer by layer and block by block."""
    twins: dict[NetPart, NetPart] = dict(zip(searched.fixed_parts(), measured.fixed_parts(), strict=True))
    for mine, theirs in zip(searched.layers, measured.layers, strict=True):
        for block in mine.blocks:
            part, twin = mine.cell(block), theirs.cell(block)
            if twins.setdefault(part, twin) != twin:
                raise SystemExit(f"{part.name} stands for two parts of {measured.name}; take another --resolution")
    return LatencyTable({part: table.lookup(twin) for part, twin in twins.items()}, table.overhead_ms, table.name)


def archs_between(
    space: Space, costs: AdditiveCosts, low_ms: float, high_ms: float, count: int, seed: int
) -> list[Arch]:
    """Different archs drawn uniformly among those whose latency lies between two bounds; fewer if there are fewer."""
    uniform = [[-math.log(len(layer.blocks))] * len(layer.blocks) for layer in space.layers]
    windows, generator = [Window(costs, low_ms, high_ms)], torch.Generator().manual_seed(seed)
    # A draw may repeat an arch, or miss the window by the width of the grid that it is made on.
    drawn = dict[Choice, None]()
    for _ in range(_DRAWS):
        drawn.update(dict.fromkeys(choices_between(uniform, windows, count, generator)))
        if len(drawn) >= count:
            break
    choices = list(drawn)[:count]
    return [Arch(tuple(x.blocks[i] for x, i in zip(space.layers, choice, strict=True))) for choice in choices]


def training_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says how archs are trained."""
    parser.add_argument("--train", type=read_settings, metavar="YAML", help="settings of the archs' trainings")


def read_settings(path: str) -> dict[str, Any]:
    """The settings in a file."""
    return read_yaml(Path(path))


def window_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which archs of one latency are compared, and how these are trained."""
    parser.add_argument(
        "--share", type=float, default=0.25, help="the window's upper end: 0 the fastest net, 1 the slowest"
    )
    parser.add_argument("--width", type=float, default=0.05, help="of the window, as a share of its upper end")
    parser.add_argument("--archs", type=int, default=24)
    training_option(parser)
    parser.add_argument("--truth", type=Path, help="folder of the archs' trainings; --out if not given")


def trained_window(
    arguments: argparse.Namespace, space: Space, costs: AdditiveCosts
) -> tuple[float, list[Arch], list[float]]:
    """The latency target, ms, archs just below it, and their top-1 accuracies, each trained once or before."""
    target = costs.least + arguments.share * (costs.most - costs.least)
    archs = archs_between(space, costs, (1 - arguments.width) * target, target, arguments.archs, 0)
    trainings = argparse.Namespace(**{**vars(arguments), "out": arguments.truth or arguments.out})
    truth = [trained(arch, space, trainings, 0)["test_accuracy"] for arch in archs]
    print(f"{len(archs)} archs of {(1 - arguments.width) * target:.4g} to {target:.4g} ms, trained to")
    print(f"{min(truth):.2%} to {max(truth):.2%}, standard deviation {statistics.stdev(truth):.2%}")
    return target, archs, truth


def trained(
    arch: Arch, space: Space, arguments: argparse.Namespace, seed: int, usual: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The record of one training, from the task's or its own file where it was done before.

    ``usual`` are the settings if the command line gives none.
    """
    text = format_arch(arch, space)
    settings = {**(arguments.train or usual or TRAIN), "seed": seed, "threads": arguments.threads}
    config = validate(TrainConfig, settings, "training settings")
    record: dict[str, Any] = {"arch": text, "macs": count_arch(arch, space).macs}
    accuracy = known_training(getattr(arguments, "task", None), arguments.space, arguments.data, config, text)
    if accuracy is not None:
        return {**record, "test_accuracy": accuracy}
    folder = arguments.out / "trainings" / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}_{seed}"
    if not (folder / "result.json").exists():
        record["test_accuracy"] = train(arch, space, arguments.data, config, folder).test_accuracy
        write_json(folder / "result.json", record)
    return dict(read_json(folder / "result.json"))
