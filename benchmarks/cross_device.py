"""Are nets best on the device they were found for? One search a device, the nets exchanged (FBNet, Table 5).

Each table is that of a space measured elsewhere (``--measured-space``, at its own resolution). The search runs the same
space at ``--resolution`` on small pictures, which is what a machine without GPUs can do in minutes: layer by layer the
candidates are the same, and each costs what it costs on the device at full resolution. So latencies are the device's,
while accuracies, of the supernet's weights, say only which candidates learn well at small size.

Every search gets the target that lies equally far between its device's fastest and slowest net.

    python benchmarks/cross_device.py --table pixel3=fbnet224_pixel3.csv --table raspi4=fbnet224_raspi4.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from searching import carried_over, shrunk

from tvmfbnet.config import validate
from tvmfbnet.files import read_yaml, write_json
from tvmfbnet.latency.foreign import read_table
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.run import read_result, reopen, search
from tvmfbnet.space.arch import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space

SETTINGS = {
    **{"epochs": 10, "warmup_epochs": 4, "batch_size": 64, "train_images": 6000, "weight_lr": 0.2},
    **{"gradient_clip": 2.0, "theta_lr": 0.06, "temperature_decay": 0.75, "weight_steps": "sampled"},
    **{"theta_steps": "two_path", "augment_shift": 0, "screened": 24, "candidates": 6},
    **{"bn_images": 512, "screen_images": 512, "validation_images": 1200},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="append", required=True, metavar="NAME=FILE.csv", help="two or more")
    parser.add_argument("--measured-space", default="fbnet")
    parser.add_argument("--last-channels", type=int, default=1984, help="of the head that the tables price")
    parser.add_argument("--resolution", default="32")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.1, help="targets, as a share of the way to the slowest net")
    parser.add_argument("--search", type=Path, help="settings of the searches, YAML")
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
    # Each supernet judges all nets, on the same pictures.
    accuracies = {name: judged(arguments.out / name, list(archs.values()), space) for name in archs}
    rows = []
    names = list(archs)
    print(f"{'net found for':>14}" + "".join(f"{'ms on ' + name:>16}{'/target':>9}" for name in names) + "  accuracy")
    for home, arch in archs.items():
        on = {name: tables[name].arch_ms(parse_arch(arch, space), space) for name in names}
        accuracy = {name: accuracies[name][arch] for name in names}
        shown = "".join(f"{on[name]:16.2f}{on[name] / targets[name]:9.3f}" for name in names)
        print(f"{home:>14}{shown}  " + ", ".join(f"{share:.2%}" for share in accuracy.values()))
        rows.append({"home": home, "arch": arch, "latency_ms": on, "accuracy": accuracy})
    write_json(arguments.out / "cross_device.json", {"targets_ms": targets, "nets": rows})


def judged(folder: Path, archs: list[str], space: Space) -> dict[str, float]:
    """Accuracy of archs with the weights of a finished search's supernet, on all of theta's pictures."""
    found, record = read_result(folder)
    with reopen(found, record) as searcher:
        judge = Judge.of(searcher, searcher.config.bn_images, None)
        return {arch: judge.accuracy(parse_arch(arch, space)) for arch in archs}


if __name__ == "__main__":
    main()
