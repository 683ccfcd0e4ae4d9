"""The nets of the study of lottery tickets: tickets, their controls, searched nets, and nets of fewer channels.

Images are halved to 14x14, so that a training takes seconds. Every net is trained alike. What a folder has already is
not trained again.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import tvmfbnet as tf
from tvmfbnet.data.datasets import load_data
from tvmfbnet.pruning.rounds import PruneResult
from tvmfbnet.pruning.widths import widths_space
from tvmfbnet.space.counts import count_arch
from tvmfbnet.training.train import load_net

# Small enough ends and a narrow block: a search can reach 5 % of the largest net's parameters.
SPACE = """
description: for the study of lottery tickets; 14x14 grey, 10 classes
input: {channels: 1, height: 14, width: 14}
classes: 10
stem: {channels: 8, stride: 2}
stages:
  - {channels: 16, layers: 1, stride: 2}
  - {channels: 32, layers: 3, stride: 2}
blocks: [k3_e3_w8, k3_e1, k3_e3, k3_e6, k5_e1, k5_e3, k5_e6, skip]
last_channels: 16
"""
ARCH = "k3_e6/k3_e6,k3_e6,k3_e6"
REMAINING = (0.2, 0.05)
MULTIPLE = 8
# Removes channels by arithmetic and traffic alone: whoever has tuned a target names that one instead.
TABLE = "simulated:gflops=16,gbps=8,kernel_us=1"
Row = dict[str, Any]


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
        self.arch = tf.parse_arch(ARCH, self.space)
        self.widths = tf.LatencyTable.load(options.latency_table, widths_space(self.arch, self.space, MULTIPLE))

    def training(self, seed: int) -> tf.TrainConfig:
        """Of every net alike."""
        epochs = self.options.epochs
        short = {"epochs": epochs, "test_every": epochs, "batch_size": 80, "lr": self.options.lr}
        plain = {"ema_decay": None, "label_smoothing": 0.0, "augment_shift": 0, "augment_flip": False}
        return tf.TrainConfig(**short, **plain, seed=seed, threads=1, device="cpu")

    def tickets(self, seed: int) -> Iterator[Row]:
        """The dense net, and tickets beside their controls; of the weights that each of ``--rewind-epochs`` goes to."""
        for rewound in self.options.rewind_epochs:
            settings = tf.PruneConfig(
                remaining=REMAINING,
                rounds=self.options.rounds,
                scope=self.options.scope,
                rewind_epochs=rewound,
                control=True,
            )
            out = self._folder(seed) / f"weights-{rewound}"
            pruned = tf.prune(ARCH, self.space, self.data, settings, self.training(seed), out=out)
            mark = f", rewound to epoch {rewound}" if rewound else ""
            yield from self._rounds(seed, pruned, f"ticket{mark}", f"control{mark}")

    def channels(self, seed: int) -> Iterator[Row]:
        """Nets of fewer channels beside their controls, round by round to the smallest latency."""
        settings = tf.PruneConfig(
            latency_target_share=min(self.options.latency_shares),
            rounds=self.options.channel_rounds,
            multiple=MULTIPLE,
        )
        out = self._folder(seed) / "channels"
        pruned = tf.prune(ARCH, self.space, self.data, settings, self.training(seed), table=self.widths, out=out)
        yield from list(self._rounds(seed, pruned, "channels", "channels control"))[1:]

    def searched(self, seed: int) -> Iterator[Row]:
        """Dense nets within the parameters that remain to a ticket."""
        dense = count_arch(self.arch, self.space).params
        for share in REMAINING:
            constraint = {"constraints": (f"params<={int(share * dense)}",)}
            yield self._found(seed, "searched by size", f"params-{share:g}", constraint)

    def narrow(self, seed: int) -> Iterator[Row]:
        """Dense nets within the latency that a net of fewer channels has by the same table."""
        dense_ms = self.widths.arch_ms(self.arch, self.space)
        for share in self.options.latency_shares:
            target = {"latency_target_ms": share * dense_ms}
            yield self._found(seed, "searched by latency", f"latency-{share:g}", target)

    def _found(self, seed: int, kind: str, name: str, bound: dict[str, Any]) -> Row:
        """What a search finds within a bound, trained; the search is one for all seeds, as it is the dearest part."""
        settings = tf.SearchConfig(
            epochs=self.options.search_epochs,
            batch_size=80,
            weight_steps="sampled",
            samples=50,
            candidates=4,
            threads=1,
            device="cpu",
            **bound,
        )
        table = tf.LatencyTable.load(self.options.latency_table, self.space)
        arch = tf.search(self.space, self.data, table, settings, out=self.out / f"search-{name}").best.arch
        out = self._folder(seed) / name
        trained = tf.train(arch, self.space, self.data, self.training(seed), out=out)
        predicted_ms = table.arch_ms(tf.parse_arch(arch, self.space), self.space)
        return self._row(seed, kind, name, trained.test_accuracy, trained.checkpoint, predicted_ms)

    def _rounds(self, seed: int, pruned: PruneResult, kind: str, control: str) -> Iterator[Row]:
        for each in pruned.rounds:
            place, predicted_ms = f"round {each.round}", each.size.latency_ms
            name = kind if each.round else "dense"
            yield self._row(seed, name, place, each.test_accuracy, each.checkpoint, predicted_ms)
            if each.control_accuracy is not None and each.control_checkpoint is not None:
                yield self._row(seed, control, place, each.control_accuracy, each.control_checkpoint, predicted_ms)

    def _row(
        self, seed: int, kind: str, place: str, accuracy: float, checkpoint: Path, predicted_ms: float | None
    ) -> Row:
        """A net: ``weights`` are those of convs and classifier that are not zero, ``params`` all that are not."""
        net = load_net(checkpoint)[0]
        sizes = [(int(p.count_nonzero()), p.dim() > 1) for p in net.parameters()]
        weights, params = sum(size for size, whole in sizes if whole), sum(size for size, _ in sizes)
        dense = count_arch(self.arch, self.space)
        row = {"seed": seed, "kind": kind, "place": place, "arch": tf.format_arch(net.arch, net.space)}
        row |= {"weights": weights, "params": params, "param_share": params / dense.params}
        return {**row, "predicted_ms": predicted_ms, "accuracy": accuracy, "checkpoint": str(checkpoint)}

    def _folder(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"
