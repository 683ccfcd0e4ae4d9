"""Compiling a net into a package: library (weights inside), ONNX model and metadata, gated on equal outputs.

A package is a folder: ``net.so``, ``net.onnx``, ``package.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import tvm

from tvmfbnet.compiler.export import export_net, randomise_biases
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import Coverage, build, coverage, lower
from tvmfbnet.devices.remote import worker_for
from tvmfbnet.devices.session import run_library
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.tracker import Endpoint
from tvmfbnet.errors import ParityError, StorageError
from tvmfbnet.files import make_folder, read_json, write_atomically, write_json
from tvmfbnet.nets.arch_net import ArchNet, build_net
from tvmfbnet.nets.folding import randomise_bn
from tvmfbnet.space.arch import Arch, format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tuning.database import TuningDatabase

# Largest relative difference (max |device - torch| / max |torch|) with which a package is accepted.
PARITY_LIMIT = 1e-3
_PARITY_IMAGES = 3
_LIBRARY, _MODEL, _METADATA = "net.so", "net.onnx", "package.json"


def untrained_net(arch: Arch, space: Space) -> ArchNet:
    """A net with random weights and random batch-norm statistics, for compiling and timing without training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_net(arch, space)
        randomise_biases(net)
    randomise_bn(net, seed=0)
    return net


@dataclass(frozen=True)
class Package:
    """A compiled net on disk and what is known about it."""

    folder: Path
    arch: str
    space: str
    input_shape: tuple[int, ...]
    kernels: Coverage

    @property
    def library(self) -> Path:
        """The compiled library, weights inside."""
        return self.folder / _LIBRARY

    @property
    def model(self) -> Path:
        """The same net as ONNX, for other runtimes."""
        return self.folder / _MODEL


def compile_net(net: ArchNet, target: Target, database: TuningDatabase | None, out: Path) -> Package:
    """Compiles a net for a (resolved) target with the schedules that tuning found; no tuning happens here.

    Raises:
        UserError: the toolchain is missing.
        StorageError: ``out`` is not writable.
    """
    make_folder(out)
    compiled_for = tvm.target.Target(target.tvm)
    model = export_net(net.eval())
    lowered = lower(model, compiled_for)
    found = coverage(lowered, compiled_for, None if database is None else database.records)
    executable = build(lowered, compiled_for, None if database is None else database.records)
    write_atomically(out / _MODEL, lambda path: onnx.save(model, str(path)))
    save_library(executable, out / _LIBRARY, target)
    shape = (1, net.space.input_channels, net.space.height, net.space.width)
    package = Package(out, format_arch(net.arch, net.space), net.space.name, shape, found)
    write_json(out / _METADATA, _metadata(package, target))
    return package


def _metadata(package: Package, target: Target) -> dict[str, Any]:
    return {
        "arch": package.arch,
        "space": package.space,
        "input_shape": list(package.input_shape),
        "target": target.name,
        "tvm_target": target.tvm,
        "tvm_version": tvm.__version__,
        "threads": target.threads,
        "dtype": target.dtype,
        "library": _LIBRARY,
        "model": _MODEL,
        "kernels_needed": package.kernels.needed,
        "kernels_found": package.kernels.found,
        "kernels_missing": list(package.kernels.missing),
    }


def load_package(folder: Path) -> Package:
    """Opens a package that :func:`compile_net` wrote; StorageError when it is none or not whole."""
    value = read_json(folder / _METADATA)
    try:
        kernels = Coverage(value["kernels_needed"], value["kernels_found"], tuple(value["kernels_missing"]))
        package = Package(folder, value["arch"], value["space"], tuple(value["input_shape"]), kernels)
    except (KeyError, TypeError) as error:
        raise StorageError(f"{folder / _METADATA} is not a package description: {error} is missing") from error
    for file in (package.library, package.model):
        if not file.is_file():
            raise StorageError(f"package {folder} lacks {file.name}; compile the net again")
    return package


def parity_inputs(shape: Sequence[int]) -> list[npt.NDArray[np.float32]]:
    """The fixed random images that parity is judged on."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(tuple(shape)).astype(np.float32) for _ in range(_PARITY_IMAGES)]


def check_parity(
    package: Package, net: ArchNet, target: Target, endpoint: Endpoint, limit: float = PARITY_LIMIT
) -> float:
    """Runs the package on the device and compares its outputs with PyTorch's; returns the largest relative error.

    Raises:
        ParityError: the error is above ``limit``, or an output is not finite.
        DeviceError: the device did not answer.
    """
    worst = 0.0
    deadline = target.timeouts.connect + target.timeouts.session
    with worker_for(target, endpoint) as worker, torch.no_grad():
        for image in parity_inputs(package.input_shape):
            expected = net.eval()(torch.from_numpy(image)).numpy()
            got = worker.call(run_library, str(package.library), [image], seconds=deadline)
            worst = max(worst, relative_error(got, expected))
    if not worst <= limit:
        raise ParityError(
            f"the compiled net differs from PyTorch by {worst:.2e} relative on the device (limit {limit:g}); "
            f"package {package.folder} must not be shipped"
        )
    return worst


def relative_error(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """max |got - expected| / max |expected|; infinite when shapes differ or a value is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - expected).max() / max(float(np.abs(expected).max()), 1e-12))
