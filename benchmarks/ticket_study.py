"""Lottery tickets of a small net on Fashion-MNIST: accuracy against the weights that remain, and measured latency.

Images are halved to 14x14, so that a training takes seconds. For each seed the largest net of a small space is pruned
in rounds, each ticket beside its control: the same net from other random weights. Beside them stand dense nets of a
ticket's size, chosen by a search within `params<=`, and nets of which channels were removed in place of weights. The
ordinary compile path compiles the nets of the first seed for this host, without tuned schedules; all are timed in turn
on one thread, and the least time of each counts. Prints means with 95 % intervals (Student's t over the seeds), writes
everything as JSON, and draws it. Resumable: rerun it.

    python benchmarks/ticket_study.py --out ticket_study --figure tickets.png
"""

from __future__ import annotations

import argparse
import gzip
import platform
import struct
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import report_figure
from scipy import stats
from torch.nn import functional

import tvmfbnet as tf
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.data.datasets import load_data
from tvmfbnet.files import write_json
from tvmfbnet.pruning.widths import widths_space
from tvmfbnet.space.counts import count_arch, describe_arch
from tvmfbnet.training.train import load_net

SPACE = """
description: for the study of lottery tickets; 14x14 grey, 10 classes
input: {channels: 1, height: 14, width: 14}
classes: 10
stem: {channels: 8, stride: 2}
stages:
  - {channels: 8, layers: 1, stride: 1}
  - {channels: 16, layers: 1, stride: 2}
  - {channels: 32, layers: 1, stride: 2}
blocks: [k3_e1, k3_e3, k3_e6, k5_e1, k5_e3, skip]
last_channels: 16
"""
ARCH = "k3_e6/k3_e6/k3_e6"
REMAINING = (0.2, 0.05)
# Removes channels by arithmetic and traffic alone: whoever has tuned a target names that one instead.
TABLE = "simulated:gflops=16,gbps=8,kernel_us=1"


def write_images(folder: Path, train: int, test: int) -> str:
    """The first images of Fashion-MNIST at half their size, as a data set of their own; gives its spec."""
    whole = load_data("fashion_mnist", 28, 28, 1, 10)
    folder.mkdir(parents=True, exist_ok=True)
    for part, images, count in (("train", whole.train, train), ("t10k", whole.test, test)):
        halved = functional.avg_pool2d(images.pixels[:count].float(), 2).round()[:, 0]
        for kind, array in (("images-idx3", halved), ("labels-idx1", images.labels[:count])):
            header = b"\0\0\x08" + bytes([array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
            content = header + array.to(torch.uint8).numpy().tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
    return f"fashion_mnist:{folder}"


class Study:
    """The folder of a study, its space, data and settings."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.options = Path(options.out), options
        self.data = write_images(self.out / "images", options.images, options.test_images)
        (self.out / "space.yaml").write_text(SPACE)
        self.space = tf.Space.load(self.out / "space.yaml")
        self.weights = tf.PruneConfig(
            remaining=REMAINING,
            rounds=options.rounds,
            scope=options.scope,
            rewind_epochs=options.rewind_epochs,
            control=True,
        )
        self.table = tf.LatencyTable.load(options.latency_table, widths_space(self.arch, self.space, 8))

    @property
    def arch(self) -> tf.Arch:
        """The dense net."""
        return tf.parse_arch(ARCH, self.space)

    def training(self, seed: int) -> tf.TrainConfig:
        """Of every net alike."""
        short = {"epochs": self.options.epochs, "test_every": self.options.epochs, "batch_size": 32, "lr": 0.1}
        plain = {"ema_decay": None, "label_smoothing": 0.0, "augment_shift": 0, "augment_flip": False}
        return tf.TrainConfig(**short, **plain, seed=seed, threads=1, device="cpu")

    def searched(self, share: float) -> str:
        """The net that a search finds within the parameters that remain to a ticket; one search, for all seeds."""
        dense = count_arch(self.arch, self.space)
        bounded = int(share * dense.params)
        settings = tf.SearchConfig(
            epochs=self.options.search_epochs,
            warmup_epochs=1,
            batch_size=64,
            train_images=self.options.images,
            samples=50,
            candidates=4,
            constraints=(f"params<={bounded}",),
            threads=1,
            device="cpu",
        )
        table = tf.LatencyTable.load(self.options.latency_table, self.space)
        result = tf.search(self.space, self.data, table, settings, out=self.out / f"search-{share:g}")
        return result.best.arch

    def accuracies(self, seed: int) -> list[dict[str, Any]]:
        """Every net of one seed: kind, weights, share of the dense net's, accuracy, checkpoint."""
        folder, training = self.out / f"seed-{seed}", self.training(seed)
        pruned = tf.prune(ARCH, self.space, self.data, self.weights, training, out=folder / "weights")
        rows = []
        for each in pruned.rounds:
            about = {"seed": seed, "weights": each.size.weights, "share": each.size.remaining, "arch": each.arch}
            kind = "ticket" if each.round else "dense"
            rows.append({**about, "kind": kind, "accuracy": each.test_accuracy, "checkpoint": str(each.checkpoint)})
            if each.control_accuracy is not None:
                made = {"accuracy": each.control_accuracy, "checkpoint": str(each.control_checkpoint)}
                rows.append({**about, "kind": "control", **made})
        for share in REMAINING if self.options.search_epochs else ():
            arch = self.searched(share)
            trained = tf.train(arch, self.space, self.data, training, out=folder / f"searched-{share:g}")
            rows.append(self._row(seed, "searched", arch, self.space, trained.test_accuracy, trained.checkpoint))
        for part in self.options.latency_shares:
            settings = tf.PruneConfig(
                latency_target_share=part, rounds=1, rewind_epochs=self.options.rewind_epochs, control=True
            )
            out = folder / f"channels-{part:g}"
            last = tf.prune(ARCH, self.space, self.data, settings, training, table=self.table, out=out).rounds[-1]
            narrow = load_net(last.checkpoint)[0].space
            rows.append(self._row(seed, "channels", last.arch, narrow, last.test_accuracy, last.checkpoint))
            if last.control_accuracy is not None and last.control_checkpoint is not None:
                control = (last.control_accuracy, last.control_checkpoint)
                rows.append(self._row(seed, "channels control", last.arch, narrow, *control))
        return rows

    def _row(
        self, seed: int, kind: str, arch: str, space: tf.Space, accuracy: float, checkpoint: Path
    ) -> dict[str, Any]:
        dense = sum(p.numel() for p in load_net(self._dense(seed))[0].parameters() if p.dim() > 1)
        weights = sum(p.numel() for p in load_net(checkpoint)[0].parameters() if p.dim() > 1)
        about = {"seed": seed, "kind": kind, "arch": arch, "weights": weights, "share": weights / dense}
        return {**about, "accuracy": accuracy, "checkpoint": str(checkpoint)}

    def _dense(self, seed: int) -> Path:
        return self.out / f"seed-{seed}" / "weights/round-00/net.pt"


def time_nets(rows: Sequence[dict[str, Any]], out: Path, rounds: int) -> None:
    """Compiles each net by the ordinary path and times all in turn; adds ``latency_ms`` and its spread to the rows."""
    import tvm
    from tvm import relax

    calls = []
    for number, row in enumerate(rows):
        net, _ = load_net(Path(row["checkpoint"]))
        options = tf.CompileOptions(checkpoint=Path(row["checkpoint"]), build_only=True)
        package = tf.compile(row["arch"], net.space, "host", options, out=out / f"package-{number}")
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(package.library)), tvm.cpu())
        image = tvm.runtime.tensor(np.zeros(package.input_shape, np.float32), tvm.cpu())
        calls.append((machine["main"], image))
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for own, (call, image) in zip(times, calls, strict=True):
            call(image)
            began = time.perf_counter()
            for _ in range(5):
                call(image)
            own.append((time.perf_counter() - began) / 5 * 1e3)
    for row, own in zip(rows, times, strict=True):
        row["latency_ms"], row["latency_quartile_ms"] = min(own), float(np.quantile(own, 0.25))


def interval(values: Sequence[float]) -> float:
    """Half the 95 % interval of a mean (Student's t); not a number for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per kind and size: mean accuracy over the seeds with its interval, and what tickets gain."""
    places = dict.fromkeys((row["kind"], _place(row)) for row in rows)
    records = []
    for kind, place in places:
        same = [row for row in rows if (row["kind"], _place(row)) == (kind, place)]
        values = [100 * row["accuracy"] for row in same]
        record = {"kind": kind, "share": float(np.mean([row["share"] for row in same])), "seeds": len(same)}
        record |= {"accuracy": float(np.mean(values)), "interval": interval(values)}
        if kind in ("ticket", "channels"):
            other = "control" if kind == "ticket" else "channels control"
            controls = {row["seed"]: row for row in rows if (row["kind"], _place(row)) == (other, place)}
            gains = [100 * (row["accuracy"] - controls[row["seed"]]["accuracy"]) for row in same]
            record |= {"gain": float(np.mean(gains)), "gain_interval": interval(gains)}
        records.append(record)
    return records


def _place(row: dict[str, Any]) -> str:
    """What nets of several seeds have in common: the round, or the bound of the search."""
    path = Path(row["checkpoint"])
    if row["kind"] == "searched":
        return path.parent.name
    return f"{path.parent.parent.name}/{path.parent.name.rpartition('-')[2]}"


def draw(records: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against remaining weights, and against measured latency."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    timed = [row for row in rows if "latency_ms" in row]
    figure, axes = pyplot.subplots(1, 2 if timed else 1, figsize=(11 if timed else 6, 4.2), squeeze=False)
    names = {"control": "ticket's control (other random weights)", "channels": "channels removed"}
    for kind in dict.fromkeys(record["kind"] for record in records):
        own = sorted((record for record in records if record["kind"] == kind), key=lambda record: record["share"])
        points = [[100 * r["share"] for r in own], [r["accuracy"] for r in own], [r["interval"] for r in own]]
        style = "-o" if kind in ("ticket", "control") else "s"
        axes[0][0].errorbar(*points[:2], yerr=points[2], fmt=style, capsize=3, label=names.get(kind, kind))
    axes[0][0].set(xscale="log", xlabel="weights that remain, %", ylabel="top-1 accuracy on test images, %")
    axes[0][0].legend()
    if timed:
        for row in timed:
            axes[0][1].plot(row["latency_ms"], 100 * row["accuracy"], "o")
            label = f"{row['kind']} {row['share']:.0%}"
            axes[0][1].annotate(label, (row["latency_ms"], 100 * row["accuracy"]), fontsize=8)
        axes[0][1].set(xlabel="measured latency on this host, ms", ylabel="accuracy of the first seed, %")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Prints a line per kind and size, and the latencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the trainings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000, help="training images, the first of Fashion-MNIST")
    parser.add_argument("--test-images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="to 20 %% of the weights, and as many to 5 %%")
    parser.add_argument("--scope", choices=("layer", "global"), default="layer")
    parser.add_argument("--rewind-epochs", type=int, default=0)
    parser.add_argument("--search-epochs", type=int, default=10, help="0: no searched nets")
    parser.add_argument("--latency-table", default=TABLE, help="what channels are removed by")
    parser.add_argument("--latency-shares", type=float, nargs="*", default=[0.6], help="of the dense net's latency")
    parser.add_argument("--timing-rounds", type=int, default=200, help="0: nothing is compiled and timed")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, rows = Study(options), []
    for seed in range(options.seeds):
        rows += study.accuracies(seed)
        _show(summary(rows))
        _write(study, rows)
    if options.timing_rounds:
        first = [row for row in rows if row["seed"] == 0 and "control" not in row["kind"]]
        time_nets([row for row in first if _is_timed(row)], study.out, options.timing_rounds)
        for row in first:
            if "latency_ms" in row:
                print(f"{row['kind']:9} {row['share']:7.2%}: {row['latency_ms']:.4f} ms, {row['accuracy']:.2%}")
    _write(study, rows)
    for record in summary(rows):
        name = f"{record['kind']}, {record['share']:.1%} of the weights, accuracy"
        report_figure(name, record["accuracy"], "%", better="higher")


def _write(study: Study, rows: Sequence[dict[str, Any]]) -> None:
    """The JSON and the figure of what there is so far."""
    dense = describe_arch(study.arch, study.space)
    about = {"date": date.today().isoformat(), "machine": platform.processor() or platform.machine()}
    about |= {"options": {name: str(value) for name, value in vars(study.options).items()}, "dense": dense["arch"]}
    about |= {"params": dense["params"], "macs": dense["macs"]}
    write_json(study.out / "study.json", {**about, "summary": _plain(summary(rows)), "nets": rows})
    if study.options.figure is not None:
        draw(summary(rows), rows, study.options.figure)


def _is_timed(row: dict[str, Any]) -> bool:
    """Tickets at the shares that were asked for, and all other kinds."""
    return row["kind"] != "ticket" or any(abs(row["share"] - share) < 0.01 for share in REMAINING)


def _plain(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the intervals that a single seed does not have."""
    return [{name: value for name, value in record.items() if value == value} for record in records]


def _show(records: Sequence[dict[str, Any]]) -> None:
    for record in _plain(records):
        line = f"{record['kind']:16} {record['share']:7.2%} of the weights, {record['seeds']} seeds: "
        line += f"{record['accuracy']:.2f} +- {record.get('interval', float('nan')):.2f} %"
        if "gain" in record:
            line += f", {record['gain']:+.2f} +- {record.get('gain_interval', float('nan')):.2f} over its control"
        print(line, flush=True)


if __name__ == "__main__":
    with as_command():
        main()
