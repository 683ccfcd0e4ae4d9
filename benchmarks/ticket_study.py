"""Lottery tickets of a small net on Fashion-MNIST: accuracy against the weights that remain, and measured latency.

For each seed the largest net of a small space is pruned in rounds, each ticket beside its control: the same net from
other random weights. Beside them stand dense nets of a ticket's size, chosen by a search within ``params<=``; nets of
which channels were removed until they take less by a latency table; and nets that a search chooses within the same
latency. The ordinary compile path compiles the nets for this host, without tuned schedules; all are timed in turn on
one thread, and the least time of each counts. Prints means with 95 % intervals (Student's t over the seeds), writes
everything as JSON, and draws it. Resumable: rerun it.

    python benchmarks/ticket_study.py --out ticket_study --figure tickets.png
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import interval, report_figure
from ticket_nets import REMAINING, TABLE, Row, Study

import tvmfbnet as tf
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.files import write_json
from tvmfbnet.space.counts import describe_arch
from tvmfbnet.training.train import load_net

PARTS = ("tickets", "channels", "narrow", "searched")
# Calls that are timed together: the clock's own cost is no share of a small net's.
_CALLS = 5


def time_nets(rows: Sequence[Row], out: Path, rounds: int) -> None:
    """Compiles each net by the ordinary path and times all in turn; adds ``latency_ms`` and its quartile to the rows.

    Nets of one arch are timed once, as their weights do not matter; a ticket is timed beside its dense net, to see it.
    """
    import tvm
    from tvm import relax

    timed = [(row["arch"], row["kind"] == "ticket" and row["place"]) for row in rows]
    calls = []
    for key in dict.fromkeys(timed):
        row = rows[timed.index(key)]
        net, _ = load_net(Path(row["checkpoint"]))
        options = tf.CompileOptions(checkpoint=Path(row["checkpoint"]), build_only=True)
        package = tf.compile(row["arch"], net.space, "host", options, out=out / f"package-{len(calls)}")
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(package.library)), tvm.cpu())
        image = tvm.runtime.tensor(np.zeros(package.input_shape, np.float32), tvm.cpu())
        calls.append((key, machine["main"], image))
    times: dict[Any, list[float]] = {key: [] for key, _, _ in calls}
    for _ in range(rounds):
        for key, call, image in calls:
            call(image)
            began = time.perf_counter()
            for _ in range(_CALLS):
                call(image)
            times[key].append((time.perf_counter() - began) / _CALLS * 1e3)
    for row, key in zip(rows, timed, strict=True):
        row["latency_ms"], row["latency_quartile_ms"] = min(times[key]), float(np.quantile(times[key], 0.25))


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One record per kind and size: means over the seeds with intervals, and what tickets gain over their controls."""
    accuracies = {(row["kind"], row["place"], row["seed"]): 100 * row["accuracy"] for row in rows}
    records = []
    for kind, place in dict.fromkeys((row["kind"], row["place"]) for row in rows):
        same = [row for row in rows if (row["kind"], row["place"]) == (kind, place)]
        own = [accuracies[kind, place, row["seed"]] for row in same]
        record: dict[str, Any] = {"kind": kind, "place": place, "seeds": len(same)}
        record |= {"accuracy": float(np.mean(own)), "interval": interval(own)}
        for name in ("weight_share", "param_share", "predicted_ms", "latency_ms"):
            values = [row[name] for row in same if row.get(name) is not None]
            record |= {name: float(np.mean(values))} if values else {}
        control = "channels control" if kind == "channels" else kind.replace("ticket", "control")
        for name, other in (("over_control", (control, place)), ("over_dense", ("dense", "round 0"))):
            pairs = [(value, accuracies.get((*other, row["seed"]))) for value, row in zip(own, same, strict=True)]
            gains = [value - beside for value, beside in pairs if beside is not None]
            if gains and other != (kind, place):
                record |= {name: float(np.mean(gains)), f"{name}_interval": interval(gains)}
        records.append(record)
    return records


_KINDS = (
    *("dense", "ticket", "control", "channels", "channels control", "searched by latency", "searched by size"),
    *("ticket, rewound to epoch 1", "control, rewound to epoch 1"),
)
_COLOURS = defaultdict(lambda: "black", {kind: f"C{number}" for number, kind in enumerate(_KINDS)})


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against remaining weights, and against measured latency."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    kinds = ("dense", "ticket", "control", "searched by size")
    by_weights = [r for r in records if r["kind"].partition(",")[0] in kinds]
    by_latency = [r for r in records if "latency_ms" in r]
    figure, axes = pyplot.subplots(1, 2 if by_latency else 1, figsize=(12 if by_latency else 6, 4.5), squeeze=False)
    draw_kinds(axes[0][0], by_weights, lambda record: 100 * record["weight_share"])
    axes[0][0].set(xscale="log", xlabel="weights that remain, %", ylabel="top-1 accuracy on test images, %")
    axes[0][0].set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes[0][0].minorticks_off()
    if by_latency:
        draw_kinds(axes[0][1], by_latency, lambda record: record["latency_ms"])
        axes[0][1].set(xlabel="measured latency on this host, ms", ylabel="top-1 accuracy on test images, %")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def draw_kinds(axes: Any, records: Sequence[dict[str, Any]], place: Any) -> None:
    """A line for each kind of net, with intervals; a kind has the same colour in all axes."""
    for kind in dict.fromkeys(record["kind"] for record in records):
        own = sorted((record for record in records if record["kind"] == kind), key=place)
        bars = [0.0 if math.isnan(record["interval"]) else record["interval"] for record in own]
        style = "s" if "control" in kind else "-o"
        places = [place(record) for record in own]
        axes.errorbar(
            places, [r["accuracy"] for r in own], yerr=bars, fmt=style, capsize=3, label=kind, color=_COLOURS[kind]
        )
    axes.grid(alpha=0.3)
    if records:
        axes.legend(fontsize=8)


def main() -> None:
    """Prints a line per kind and size, and the latencies."""
    options = _options().parse_args()
    torch.set_num_threads(1)
    study = Study(options)
    rows: list[Row] = []
    for part in options.parts:
        for seed in range(options.seeds):
            rows += getattr(study, part)(seed)
            _write(study, rows)
    if options.timing_rounds:
        kinds = ("dense", "ticket", "channels", "channels control", "searched by size", "searched by latency")
        time_nets([row for row in rows if row["kind"] in kinds and _is_asked(row)], study.out, options.timing_rounds)
        _write(study, rows)
    for record in summary(rows):
        _show(record)
        name = f"{record['kind']}, {record['place']}"
        report_figure(f"{name}, accuracy", record["accuracy"], "%", better="higher")
        if "latency_ms" in record:
            report_figure(f"{name}, latency", record["latency_ms"], "ms", better="lower")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", required=True, help="folder of the trainings")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which nets, in this order")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000, help="training images, the first of Fashion-MNIST")
    parser.add_argument("--test-images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3, help="to 20 %% of the weights, and as many to 5 %%")
    parser.add_argument("--scope", choices=("adaptive", "layer", "global"), default="adaptive")
    parser.add_argument("--rewind-epochs", type=int, nargs="+", default=[0], help="of tickets; 0: the initial weights")
    parser.add_argument("--search-epochs", type=int, default=6)
    parser.add_argument("--latency-table", default=TABLE, help="what channels are removed and nets searched by")
    parser.add_argument("--latency-shares", type=float, nargs="+", default=[0.67, 0.45], help="of the dense net's")
    parser.add_argument("--channel-rounds", type=int, default=2, help="to the least of them; each by the same factor")
    parser.add_argument("--timing-rounds", type=int, default=200, help="0: nothing is compiled and timed")
    parser.add_argument("--figure", type=Path)
    return parser


def _write(study: Study, rows: Sequence[Row]) -> None:
    """The JSON and the figure of what there is so far."""
    weights = max(row["weights"] for row in rows)
    for row in rows:  # the dense net has the most
        row["weight_share"] = row["weights"] / weights
    dense = describe_arch(study.arch, study.space)
    about = {"date": date.today().isoformat(), "machine": platform.processor() or platform.machine()}
    about |= {"options": {name: str(value) for name, value in vars(study.options).items()}, "load": os.getloadavg()}
    about |= {"dense": dense["arch"], "params": dense["params"], "macs": dense["macs"]}
    records = [{name: value for name, value in each.items() if value == value} for each in summary(rows)]
    write_json(study.out / "study.json", {**about, "summary": records, "nets": rows})
    if study.options.figure is not None:
        draw(summary(rows), study.options.figure)


def _is_asked(row: Row) -> bool:
    """All but tickets between the shares that were asked for."""
    return row["kind"] != "ticket" or any(abs(row["weight_share"] / share - 1) < 0.05 for share in REMAINING)


def _show(record: dict[str, Any]) -> None:
    line = (
        f"{record['kind']}, {record['place']}: {record['weight_share']:.2%} of the weights, {record['seeds']} seeds: "
    )
    line += f"{record['accuracy']:.2f} +- {record['interval']:.2f} %"
    for name in ("over_control", "over_dense"):
        if name in record:
            line += f", {record[name]:+.2f} +- {record[f'{name}_interval']:.2f} {name.replace('_', ' ')}"
    print(line + (f", {record['latency_ms']:.4f} ms" if "latency_ms" in record else ""), flush=True)


if __name__ == "__main__":
    with as_command():
        main()
