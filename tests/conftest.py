"""What tests of several packages share: a tiny space, tiny images in Fashion-MNIST's file format."""

from __future__ import annotations

import gzip
import os
import struct
import sys
from collections import Counter

import pytest

from tvmfbnet import advice, progress
from tvmfbnet.cli import terminal
from tvmfbnet.space.registry import load_space

# Tests that import ONNX Runtime themselves report to nobody either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Tests share the cores. Threads that spin while they wait for each other would take most of them: torch's, which do not
# in a command either, and NumPy's on small matrices.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch  # which reads these as it is loaded

torch.set_num_threads(1)  # tensors are tiny

TINY_SPACE = """
input: {channels: 1, height: 28, width: 28}
classes: 10
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, stride: 2}
  - {channels: 8, layers: 2, stride: 2}
blocks: [k3_e1, k3_e3, k5_e1_g2, skip]
last_channels: 8
"""


def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first, so that no worker still has one when the others have ended."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: a file's tests stay together, in their order


@pytest.fixture(autouse=True)
def _no_saved_words():
    """A command that a test calls in this process leaves nothing for the advice of the next one."""
    advice._given.set({})


@pytest.fixture(autouse=True)
def _shown_as_by_a_command():
    """What library calls report is shown on stderr, as it is under the command line."""
    with terminal.shown():
        yield


@pytest.fixture
def every_update(monkeypatch):
    """Has progress print a line at every update, however soon after the last one."""
    real = progress.Reporter.update

    def update(self, done, note=""):
        real(self, done, note)
        if done != self.total:  # the last one is printed anyway
            print(self.describe(), file=sys.stderr)

    monkeypatch.setattr(progress.Reporter, "update", update)


@pytest.fixture
def tiny_space_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_SPACE)
    return path


@pytest.fixture
def tiny_space(tiny_space_file):
    return load_space(str(tiny_space_file))


@pytest.fixture
def tiny_data(tmp_path):
    """Spec of a learnable data set of 120 + 40 images: the class is where the bright square is."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 120), ("t10k", 40)):
        labels = torch.arange(count) % 10
        pixels = torch.randint(0, 60, (count, 28, 28), generator=generator)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            image[2 * label : 2 * label + 8, 4:20] += 150
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = b"\0\0\x08" + bytes([array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
            content = header + array.to(torch.uint8).numpy().tobytes()
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return f"fashion_mnist:{folder}"
