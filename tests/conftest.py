"""Fixtures that tests of several packages share, and what holds for every test."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny import TINY_SPACE, write_tiny_data

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
def benchmark_script(monkeypatch):
    """Imports a script of ``benchmarks/`` by name, as a run of it does: modules beside it can be imported."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    return importlib.import_module


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
    return write_tiny_data(tmp_path)
