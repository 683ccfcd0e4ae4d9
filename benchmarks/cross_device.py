"""Are nets best on the device they were found for? One search per device, the nets exchanged (FBNet, Table 5).

Needs tables alone. Where there are devices, ``tvmfbnet report cross-device`` times the nets of finished runs on them.

Each table is that of a space measured elsewhere (``--measured-space``, at its own resolution). The search runs the same
space at ``--resolution`` on small images, which is what a machine without GPUs can do in minutes: layer by layer the
candidates are the same, and each costs what it costs on the device at full resolution. So latencies are the device's,
while accuracies say only which candidates learn well at small size.

Every search gets the target that lies equally far between its device's fastest and slowest net. Accuracy of the nets is
that on the test images, which no search has seen: with the weights of each supernet, and after training from scratch
(``--train`` gives other settings, ``--trainings`` how many seeds).

Then each device's own net is held against each foreign one: whether that one meets the device's target, and how it
compares with an arch of the same latency *there*, which is drawn from the device's own theta and chosen as every found
net is. The two differ in accuracy alone.

    python benchmarks/cross_device.py --table pixel3=fbnet224_pixel3.csv --table raspi4=fbnet224_raspi4.csv
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from figures import report_figure
from searching import TRAIN, carried_over, shrunk, trained, training_option

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.config import validate
from tvmfbnet.data.loader import in_order
from tvmfbnet.files import read_yaml, write_json
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.judge import VALIDATION_BATCH, validate_arch
from tvmfbnet.search.search import choose_again, read_result, reopen, search
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space

SETTINGS = {
    **{"epochs": 12, "warmup_epochs": 5, "batch_size": 64, "train_images": 10000, "weight_lr": 0.2},
    **{"gradient_clip": 2.0, "theta_lr": 0.06, "temperature_decay": 0.75, "weight_steps": "sampled"},
    **{"theta_steps": "sampled", "augment_shift": 0, "screened": 24, "candidates": 6, "validation_images": 2000},
    # So deep a supernet learns little in minutes: the last word have short trainings.
    **{"bn_images": 512, "screen_images": 512, "finalists": 16, "finalist_steps": 150},
}
# Nets of 22 layers; unclipped, one of four came off its course.
TRAINING = {**TRAIN, "gradient_clip": 2.0}
# Images that compare nets, of the part that no search sees.
TEST_IMAGES = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", required=True, metavar="NAME=FILE.csv", help="two or more")
    parser.add_argument("--measured-space", default="fbnet")
    parser.add_argument("--last-channels", type=int, default=1984, help="outputs of the head in the tables")
    parser.add_argument("--resolution", default="32")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.1, help="targets, as a share of the way to the slowest net")
    parser.add_argument("--search", type=Path, help="settings of the searches, YAML")
    training_option(parser)
    parser.add_argument("--trainings", type=int, default=2, help="seeds that each net is trained with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("cross_device"))
    arguments = parser.parse_args()
    measured = load_space(arguments.measured_space).with_last_channels(arguments.last_channels)
    space = shrunk(arguments.measured_space, arguments.resolution, arguments.channels, arguments.classes)
    tables, targets, archs = {}, {}, {}
    settings = read_yaml(arguments.search) if arguments.search else SETTINGS
    for entry in arguments.table:
        name, _, file = entry.partition("=")
        table = tables[name] = carried_over(read_table(Path(file)), measured, space)
        low, high = table.range_ms(space)
        targets[name] = low + arguments.share * (high - low)
        changes = {"latency_target_ms": targets[name], "seed": arguments.seed, "threads": arguments.threads}
        config = validate(SearchConfig, {**settings, **changes}, "settings")
        archs[name] = search(space, arguments.data, table, config, arguments.out / name).best.arch
    nets, homes = compare(archs, tables, targets, space, arguments)
    write_json(arguments.out / "cross_device.json", {"targets_ms": targets, "nets": nets, "at_home": homes})


def compare(
    archs: dict[str, str],
    tables: dict[str, LatencyTable],
    targets: dict[str, float],
    space: Space,
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prints and returns the nets, and each device's net against every foreign one."""
    names = list(archs)
    parsed = {home: parse_arch(arch, space) for home, arch in archs.items()}
    on = {home: {name: tables[name].arch_ms(arch, space) for name in names} for home, arch in parsed.items()}
    pairs = [(name, other) for name in names for other in names if other != name]
    matches = {(name, other): choose_again(arguments.out / name, target_ms=on[other][name])[0] for name, other in pairs}
    everyone = list(dict.fromkeys([*archs.values(), *(match.arch for match in matches.values())]))
    judged_by = {name: judged(arguments.out / name, everyone, space) for name in names}
    accuracies = {
        "supernets": {arch: statistics.mean(accuracy[arch] for accuracy in judged_by.values()) for arch in everyone},
        "trained": {arch: trainings(arch, space, arguments) for arch in everyone},
    }
    nets = []
    print(f"{'net found for':>14}" + "".join(f"{'ms on ' + name:>16}{'/own net':>9}" for name in names), end="")
    print(f"{'supernets':>11}{'trained':>9}")
    for home, arch in archs.items():
        shown = "".join(f"{on[home][name]:16.2f}{on[home][name] / on[name][name]:9.3f}" for name in names)
        print(f"{home:>14}{shown}{accuracies['supernets'][arch]:11.2%}{accuracies['trained'][arch]:9.2%}  {arch}")
        accuracy = {**{name: judged_by[name][arch] for name in names}, "trained": accuracies["trained"][arch]}
        nets.append({"home": home, "arch": arch, "latency_ms": on[home], "accuracy": accuracy})
    homes = []
    for name, other in pairs:
        ms, target, match = on[other][name], targets[name], matches[name, other]
        gains = {kind: accuracy[match.arch] - accuracy[archs[other]] for kind, accuracy in accuracies.items()}
        print(
            f"on {name} the net of {other} takes {ms / target:.3f} of the target; an arch of {name}'s search at "
            f"{match.predicted_ms / ms:.3f} of that latency has "
            + ", ".join(f"{gain:+.2%} ({kind})" for kind, gain in gains.items())
        )
        what = f"on {name}, gain of its own search over the net of {other}, trained, in points"
        report_figure(what, 100 * gains["trained"], "%", better="higher")
        homes.append({"device": name, "foreign": other, "foreign_ms": ms, "match": match.to_dict(), "gains": gains})
    return nets, homes


def trainings(arch: str, space: Space, arguments: argparse.Namespace) -> float:
    """Mean accuracy after training from scratch."""
    seeds = range(arguments.seed, arguments.seed + arguments.trainings)
    done = [trained(parse_arch(arch, space), space, arguments, seed, TRAINING) for seed in seeds]
    return statistics.mean(record["test_accuracy"] for record in done)


def judged(folder: Path, archs: list[str], space: Space) -> dict[str, float]:
    """Accuracy of archs with the weights of a finished search's supernet, on test images."""
    result, record = read_result(folder)
    with reopen(result, record) as searcher:
        data, calibration = searcher.data, searcher.weight_indices[: searcher.config.bn_images]
        calibrating = [pixels for pixels, _ in in_order(data, data.train, calibration, VALIDATION_BATCH)]
        images = torch.arange(len(data.test))[:TEST_IMAGES]
        return {
            arch: validate_arch(
                searcher.supernet,
                parse_arch(arch, space),
                calibrating,
                in_order(data, data.test, images, VALIDATION_BATCH),
                searcher.task,
            )
            for arch in archs
        }


if __name__ == "__main__":
    with as_command():
        main()
