"""Times a net in float32, in int8 and in mixed dtypes, in turn, beside what its table and conversions add up to.

Mixed are the dtypes with which the net is fastest by the tables, and one pattern with as many conversions as possible:
every other unit in float32. Kernels are those that tuning found for this host, everything on one thread; a latency is
the median of the rounds. Prints the sums, the measured latencies, and how far apart they are.

    tvmfbnet tune --target host --space fbnet --arch fbnet_c
    tvmfbnet tune --target host --dtype int8 --space fbnet --arch fbnet_c
    python benchmarks/mixed_net.py --space fbnet --arch fbnet_c
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from figures import report_figure
from tvm import relax

from tvmfbnet.autotune.database import existing_database, joined_records
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.lowering import build, lower
from tvmfbnet.compiler.mixed_export import export_with_borders, quantised_but
from tvmfbnet.deploy.package import random_images, untrained_net
from tvmfbnet.dtypes import INT8
from tvmfbnet.latency.mixed import UNIT_DTYPES, fastest_dtypes, latency_in
from tvmfbnet.latency.sources.mixed import MixedSource
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.borders import units_of
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def compiled(model: onnx.ModelProto, image: Any, root: Path | None) -> Callable[[], Any]:
    """Runs a model with the schedules of both dtypes."""
    targets = [resolve(load_target(f"host,dtype={dtype}")) for dtype in UNIT_DTYPES]
    records = joined_records(*(existing_database(target, root) for target in targets))
    compiled_for = targets[-1].for_tvm()
    machine = relax.VirtualMachine(build(lower(model, compiled_for), compiled_for, records), tvm.cpu())
    given = tvm.runtime.tensor(image, tvm.cpu())
    return lambda: machine["main"](given)


def times_ms(nets: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each net, all in turn."""
    times: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(rounds):
        for name, once in nets.items():
            once()
            began = time.perf_counter()
            for _ in range(3):
                once()
            times[name].append((time.perf_counter() - began) / 3 * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def run(space: str, arch: str, root: Path | None, rounds: int) -> dict[str, Any]:
    """Compiles and times the net in each pattern of dtypes."""
    chosen, loaded = resolve_arch(arch, load_space(space))
    net, units = untrained_net(chosen, loaded), units_of(chosen, loaded)
    tables = MixedSource("host", root).tables_of(chosen, loaded)
    fastest = fastest_dtypes(tables, chosen, loaded)
    patterns: dict[str, Collection[str]] = {
        "float32": [unit.name for unit in units],
        "int8": [],
        "fastest": fastest.float32,
        "every other": [unit.name for unit in units[::2]],
    }
    images, nets, exported = random_images(loaded, INT8), dict[str, Callable[[], Any]](), export_with_borders(net)
    for name, floats in patterns.items():
        nets[name] = compiled(quantised_but(exported, units, floats, images), images[0], root)
    measured = times_ms(nets, rounds)
    rows = {}
    for name, floats in patterns.items():
        summed = latency_in(tables, chosen, loaded, [UNIT_DTYPES[unit.name not in floats] for unit in units])
        rows[name] = {
            **{"sum_ms": round(summed.latency_ms, 4), "measured_ms": round(measured[name], 4)},
            **{"conversions": summed.conversions, "conversions_ms": round(summed.conversions_ms, 4)},
            "measured_over_sum": round(measured[name] / summed.latency_ms, 3),
        }
    for name in ("int8", "fastest"):
        report_figure(f"{arch}, {name} over float32", measured[name] / measured["float32"], "ratio", better="lower")
    return {"space": space, "arch": arch, "fastest": fastest.describe(), "nets": rows}


def main() -> None:
    """Prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--arch", default="fbnet_c")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--tuning-logs", type=Path, help="folder of all targets' logs; default: where tune writes them")
    options = parser.parse_args()
    print(json.dumps(run(options.space, options.arch, options.tuning_logs, options.rounds), indent=1))


if __name__ == "__main__":
    with as_command():
        main()
