"""Times packages of this host in turn, pass by pass: two revisions' nets, two dtypes, tuned and untuned.

A slow spell of the machine meets all of them. Ratios are of the least times, to the first package's. Prints JSON.

    tvmfbnet compile fbnet_c --space fbnet --target host --out after
    python benchmarks/packages_in_turn.py before after
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from figures import report_figure
from tvm import relax

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.deploy.package import load_package
from tvmfbnet.errors import UserError
from tvmfbnet.targets.definition import load_target, resolve


def opened(folder: Path) -> Callable[[], Any]:
    """Runs a package's net on one image of noise."""
    package = load_package(folder, resolve(load_target("host")))
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(package.library)), tvm.cpu())
    noise = np.random.default_rng(0).normal(size=package.input_shape).astype("float32")
    image = tvm.runtime.tensor(noise, tvm.cpu())
    return lambda: machine["main"](image)


def times_ms(nets: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, list[float]]:
    """Milliseconds of a call of each net, one mean of ``calls`` for each round."""
    times: dict[str, list[float]] = {name: [] for name in nets}
    for once in nets.values():
        once()
    for _ in range(rounds):
        for name, once in nets.items():
            began = time.perf_counter()
            for _ in range(calls):
                once()
            times[name].append((time.perf_counter() - began) / calls * 1e3)
    return times


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+", type=Path, metavar="PACKAGE")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--calls", type=int, default=3, help="calls of a net before the next one's")
    options = parser.parse_args()
    if len(set(options.packages)) < 2:
        raise UserError("name two packages or more, each once")
    times = times_ms({str(folder): opened(folder) for folder in options.packages}, options.rounds, options.calls)
    least, rows = min(next(iter(times.values()))), {}
    for name, values in times.items():
        rows[name] = {
            "least_ms": round(min(values), 3),
            "p10_ms": round(float(np.percentile(values, 10)), 3),
            "median_ms": round(statistics.median(values), 3),
            "least_over_first": round(min(values) / least, 3),
        }
        if name != str(options.packages[0]):
            first = Path(options.packages[0]).name
            report_figure(f"{Path(name).name} over {first}, least", min(values) / least, "ratio", better="lower")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
