"""Does a search end at its latency target? Five targets across the reachable range, each a search of its own.

For each target: latency of the found arch by the table over the target (must lie in 0.97 to 1.00), the mean latency of
archs drawn from theta over the target, and the controller's Lagrange multiplier. With ``--measure`` the five
nets are then compiled with the kernels that were tuned for ``--target``, and timed there: measured over predicted.

    python benchmarks/latency_targets.py --space fbnet_mini --data fashion_mnist --latency-table table.csv --out out
    python benchmarks/latency_targets.py --space fbnet_mini --data fashion_mnist --target host --measure
"""

from __future__ import annotations

from figures import report_figure
from searching import options, space_and_table

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.config import validate
from tvmfbnet.files import read_json, read_yaml
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.search import search
from tvmfbnet.space.arch_text import parse_arch

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)

# Small enough for minutes; a settings file given with --search takes its place.
SETTINGS = {
    **{"epochs": 16, "warmup_epochs": 4, "batch_size": 64, "train_images": 4000, "weight_lr": 0.2},
    **{"gradient_clip": 2.0, "theta_lr": 0.04, "temperature_decay": 0.85, "weight_steps": "sampled"},
    **{"theta_steps": "sampled", "augment_shift": 0, "screened": 12, "candidates": 4, "validation_images": 500},
    **{"bn_images": 256, "screen_images": 256},
}


def main() -> None:
    parser = options(__doc__ or "", "latency_targets")
    parser.add_argument("--measure", action="store_true", help="time the nets on --target's device")
    arguments = parser.parse_args()
    if arguments.measure and arguments.target is None:
        parser.error("--measure needs --target")
    space, table = space_and_table(arguments)
    low, high = table.range_ms(space)
    settings = read_yaml(arguments.search) if arguments.search else SETTINGS
    print(f"{space.name}: reachable are {low:.4g} to {high:.4g} ms")
    print(f"{'target ms':>10} {'found/target':>13} {'mean/target':>12} {'lambda':>7} {'accuracy':>9}  arch")
    predicted_ms = {}
    for share in SHARES:
        target = low + share * (high - low)
        config = validate(
            SearchConfig, {**settings, "latency_target_ms": target, "threads": arguments.threads}, "settings"
        )
        out = arguments.out / f"share{share:g}"
        result = search(space, arguments.data, table, config, out)
        multiplier = read_json(out / "history.json")[-1]["latency_price"]
        best = result.best
        name = f"target at {share:g} of the range, how far below it the found arch is"
        report_figure(name, 100 * (1 - best.predicted_ms / target), "%", better="lower")
        predicted_ms[best.arch] = best.predicted_ms
        ratios = f"{best.predicted_ms / target:13.4f} {result.expected_ms / target:12.4f}"
        print(f"{target:10.4g} {ratios} {multiplier:7.2f} {best.accuracy or 0:9.2%}  {best.arch}", flush=True)
    if arguments.measure:
        from tvmfbnet.deploy.whole_nets import measure_nets  # tvm, which a foreign table does without
        from tvmfbnet.targets.definition import load_target

        archs = [parse_arch(arch, space) for arch in predicted_ms]
        measured = measure_nets(space, load_target(arguments.target), archs, arguments.tuning_logs)
        print(f"{'predicted ms':>12} {'measured ms':>12} {'ratio':>7} {'at table speed':>14}")
        for arch, predicted in predicted_ms.items():
            net = measured[arch]
            ratios = f"{net.latency_ms / predicted:7.3f} {net.at_table_speed_ms / predicted:14.3f}"
            print(f"{predicted:12.4g} {net.latency_ms:12.4g} {ratios}")


if __name__ == "__main__":
    with as_command():
        main()
