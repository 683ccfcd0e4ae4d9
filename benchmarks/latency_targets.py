"""Does a search end at its latency target? Five targets across the reachable range, each a search of its own.

For each target: latency of the found arch by the table over the target (must lie in 0.97 to 1.00), the mean latency of
archs drawn from theta over the target, and the price that the controller found for latency.

    python benchmarks/latency_targets.py --space fbnet_mini --data fashion_mnist --latency-table table.csv --out out
    python benchmarks/latency_targets.py --space fbnet_mini --data fashion_mnist --target host --config search.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tvmfbnet.config import validate
from tvmfbnet.files import read_json, read_yaml
from tvmfbnet.latency.foreign import read_csv
from tvmfbnet.latency.regressor import complete
from tvmfbnet.latency.store import load_table
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.run import search
from tvmfbnet.space.registry import load_space

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)

# Small enough for minutes; a settings file given with --config takes its place.
SETTINGS = {
    **{"epochs": 16, "warmup_epochs": 4, "batch_size": 64, "train_images": 4000, "weight_lr": 0.2},
    **{"gradient_clip": 2.0, "theta_lr": 0.04, "temperature_decay": 0.85, "weight_steps": "sampled"},
    **{"theta_steps": "sampled", "augment_shift": 0, "screened": 12, "candidates": 4, "validation_images": 500},
    **{"bn_images": 256, "screen_images": 256},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="fbnet_mini")
    parser.add_argument("--data", default="fashion_mnist")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--latency-table", type=Path)
    source.add_argument("--target")
    parser.add_argument("--tuning-logs", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("latency_targets"))
    arguments = parser.parse_args()
    space = load_space(arguments.space)
    if arguments.latency_table:
        table = read_csv(arguments.latency_table)
    else:
        table = complete(load_table(arguments.target, arguments.tuning_logs), space.distinct_parts())
    low, high = table.range_ms(space)
    settings = read_yaml(arguments.config) if arguments.config else SETTINGS
    print(f"{space.name}: reachable are {low:.4g} to {high:.4g} ms")
    print(f"{'target ms':>10} {'found/target':>13} {'mean/target':>12} {'price':>7} {'accuracy':>9}  arch")
    for share in SHARES:
        target = low + share * (high - low)
        config = validate(
            SearchConfig, {**settings, "latency_target_ms": target, "threads": arguments.threads}, "settings"
        )
        out = arguments.out / f"share{share:g}"
        result = search(space, arguments.data, table, config, out)
        price = read_json(out / "history.json")[-1]["latency_price"]
        best = result.best
        ratios = f"{best.predicted_ms / target:13.4f} {result.expected_ms / target:12.4f}"
        print(f"{target:10.4g} {ratios} {price:7.2f} {best.accuracy or 0:9.2%}  {best.arch}", flush=True)


if __name__ == "__main__":
    main()
