"""What the examples in docstrings and pages find in the current folder: a table of fbnet_mini, and tiny images."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space


def write_table_of(space_name: str, path: Path) -> None:
    """A table in which a part's latency follows from its multiply-accumulates."""
    parts = load_space(space_name).distinct_parts()
    write_table(LatencyTable({part: Cell(0.002 + 1e-7 * count_part(part).macs) for part in parts}, 0.01), path)


def write_own_block(folder: Path) -> None:
    """A file of blocks, and a space that has it among its candidates."""
    (folder / "my_blocks.py").write_text(_BLOCKS)
    (folder / "own.yaml").write_text(_SPACE)


_BLOCKS = """
import tvmfbnet as tf
from torch import nn

@tf.block("conv_tanh", kernel=3)
class ConvTanh(nn.Sequential):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__(nn.Conv2d(cin, cout, 3, stride, 1), nn.Tanh())
"""
_SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 2
stem: {channels: 4, stride: 2}
stages: [{channels: 4, layers: 1}, {channels: 8, layers: 1, stride: 2}]
blocks: [k3_e1, conv_tanh]
last_channels: 8
"""


def write_fashion_mnist(folder: Path) -> None:
    """120 + 40 learnable images in Fashion-MNIST's form: the class is where the bright square is."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (("train", 120), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = generator.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for index, label in enumerate(labels):
            pixels[index, 2 * label : 2 * label + 8, 4:20] += 150
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
