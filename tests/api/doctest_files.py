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
