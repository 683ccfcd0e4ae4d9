"""Compiling a net into a package: library (with weights), ONNX model and description, gated on a parity check.

A package is a folder: ``net.so``, ``net.onnx``, ``package.json``. The description (:mod:`tvmfbnet.deploy.description`)
says what the package was compiled for, whether its outputs match PyTorch's, and its measured latency.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import tvm

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.compiler.export import export_net, randomise_biases
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import Coverage, build, coverage, lower
from tvmfbnet.deploy.description import (
    DESCRIPTION,
    LIBRARY,
    MODEL,
    PackageDescription,
    Parity,
    read_description,
    require_fit,
    require_parity,
)
from tvmfbnet.dtypes import FLOAT32, DType, random_tensor
from tvmfbnet.errors import ParityError, StorageError
from tvmfbnet.files import checksum, make_folder, storage_errors, write_atomically, write_json
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.nets.bn_folding import randomise_bn
from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.nets.precision import torch_type
from tvmfbnet.profiling.parts import context_of
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import run_library
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import ResolvedTarget, Target, load_target, resolve

if TYPE_CHECKING:
    from tvmfbnet.deploy.bench import BenchResult

_PARITY_IMAGES = 3


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
    """A compiled net on disk with its description.

    Attributes:
        folder: of the files.
        description: what it was compiled for, its parity and its latency.
        target: what it was compiled or opened for; None where it was only opened to look at.
    """

    folder: Path
    description: PackageDescription
    target: ResolvedTarget | None = None

    @classmethod
    def load(cls, folder: str | Path, target: Target | str | None = None, *, force: bool = False) -> Package:
        """Opens a package that :func:`tvmfbnet.compile` or the command wrote.

        Args:
            folder: the package.
            target: the target to run it on, or its name or file; None only to look at it.
            force: open it even if its outputs differ from PyTorch's.

        Raises:
            StorageError: it is not a package, or incomplete.
            PackageError: it was compiled for another machine, TVM or number of threads; names both sides.
            ParityError: its outputs differ from PyTorch's.

        Example:
            >>> import tvmfbnet as tf
            >>> package = tf.Package.load("package")  # doctest: +SKIP
            >>> package.description.parity.verdict  # doctest: +SKIP
            'passed'
        """
        wanted = load_target(target) if isinstance(target, str) else target
        return load_package(Path(folder), None if wanted is None else resolve(wanted), force)

    def bench(
        self,
        target: Target | str | None = None,
        *,
        latency_target_ms: float | None = None,
        sustained_seconds: float = 0.0,
        runtimes: Sequence[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> BenchResult:
        """Times the package on its device, in turn with other runtimes on the same machine.

        Args:
            target: where to; by default what it was compiled or opened for.
            latency_target_ms: judge the latency by this; by default by what it was made to meet.
            sustained_seconds: then measure the sustained latency over this time; 0 for not at all.
            runtimes: names of the other runtimes; by default ONNX Runtime where it can run.
            on_progress: called with an event for everything that is reported meanwhile.

        Raises:
            PackageError: it was compiled for another machine, TVM or number of threads; names both sides.
            DeviceError: the device does not answer.

        Example:
            >>> import tvmfbnet as tf
            >>> tf.Package.load("package").bench(latency_target_ms=8.0).latency_ms  # doctest: +SKIP
            6.41
        """
        from tvmfbnet.deploy.bench import bench_on_device

        with library_call(on_progress, package=self.folder):
            return bench_on_device(self, self._opened_for(target), sustained_seconds, latency_target_ms, runtimes)

    def _opened_for(self, target: Target | str | None) -> ResolvedTarget:
        """The target to run on; refused where the package does not fit it."""
        if target is None and self.target is not None:
            return self.target
        wanted = self.description.target if target is None else target
        resolved = resolve(load_target(wanted) if isinstance(wanted, str) else wanted)
        if resolved != self.target:
            require_fit(self.folder, self.description, resolved, tvm.__version__)
        return resolved

    @property
    def arch(self) -> str:
        """Canonical arch string."""
        return self.description.arch

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, channels, height, width)."""
        return self.description.input_shape

    @property
    def kernels(self) -> Coverage:
        """Which conv kernels were tuned."""
        described = self.description
        return Coverage(described.kernels_needed, described.kernels_found, described.kernels_missing)

    @property
    def library(self) -> Path:
        """The compiled library, with weights."""
        return self.folder / LIBRARY

    @property
    def model(self) -> Path:
        """The same net as ONNX, for other runtimes."""
        return self.folder / MODEL

    def with_description(self, **changes: Any) -> Package:
        """The package with fields of its description changed, on disk as well."""
        changed = self.description.model_copy(update=changes)
        write_json(self.folder / DESCRIPTION, changed.model_dump(mode="json"))
        return replace(self, description=changed)


def compile_net(
    net: ArchNet,
    target: ResolvedTarget,
    database: TuningDatabase | None,
    out: Path,
    class_names: Sequence[str] = (),
) -> Package:
    """Compiles a net for a target with its tuned schedules; no tuning happens here.

    The package is marked as unchecked until :func:`certify`. Its description stores ``class_names``, one per output.

    Raises:
        ParityError: PyTorch's own output is not finite; nothing is written.
        UserError: the toolchain is missing.
        StorageError: ``out`` is not writable.
    """
    shape, dtype = (1, net.space.input_channels, net.space.height, net.space.width), target.data_type
    _expected(net, shape, dtype)
    make_folder(out)
    with storage_errors(out / DESCRIPTION, "remove"):  # an older one would not match the new files
        (out / DESCRIPTION).unlink(missing_ok=True)
    compiled_for = target.for_tvm()
    model = export_net(net.eval(), dtype)
    lowered = lower(model, compiled_for)
    kernels = coverage(lowered, compiled_for, None if database is None else database.records)
    executable = build(lowered, compiled_for, None if database is None else database.records)
    write_atomically(out / MODEL, lambda path: onnx.save(model, str(path)))
    save_library(executable, out / LIBRARY, target)
    described = PackageDescription(
        arch=format_arch(net.arch, net.space),
        space=net.space.name,
        input_shape=shape,
        target=target.name,
        tvm_target=target.tvm,
        tvm_version=tvm.__version__,
        threads=target.threads,
        dtype=dtype.name,
        input_dtype=dtype.boundary,
        context=vars(context_of(target)),
        class_names=tuple(class_names),
        library_sha256=checksum(out / LIBRARY),
        model_sha256=checksum(out / MODEL),
        kernels_needed=kernels.needed,
        kernels_found=kernels.tuned,
        kernels_missing=tuple(kernels.missing),
    )
    write_json(out / DESCRIPTION, described.model_dump(mode="json"))
    return Package(out, described, target)


def load_package(folder: Path, target: ResolvedTarget | None = None, force: bool = False) -> Package:
    """Opens a package that :func:`compile_net` wrote.

    Args:
        folder: the package.
        target: the target to run it on; None only to inspect it.
        force: open it even if its outputs differ from PyTorch's.

    Raises:
        StorageError: it is not a package, or incomplete.
        PackageError: it was compiled for another machine, TVM or number of threads; names both sides.
        ParityError: its outputs differ from PyTorch's.
    """
    described = read_description(folder)
    package = Package(folder, described, target)
    for file in (package.library, package.model):
        if not file.is_file():
            raise StorageError(f"package {folder} lacks {file.name}; compile the net again")
    for file, expected in ((package.library, described.library_sha256), (package.model, described.model_sha256)):
        if expected and checksum(file) != expected:
            raise StorageError(
                f"package {folder}: {file.name} is not the file that {DESCRIPTION} describes; compile the net again"
            )
    if target is not None:
        require_fit(folder, described, target, tvm.__version__)
    require_parity(folder, described.parity, force)
    return package


def parity_inputs(shape: Sequence[int], dtype: DType = FLOAT32) -> list[npt.NDArray[Any]]:
    """The fixed random images of the parity check."""
    images = random_tensor((_PARITY_IMAGES, *shape), dtype.boundary)
    return list(images)


def certify(package: Package, net: ArchNet, target: ResolvedTarget, endpoint: Endpoint) -> Package:
    """Checks a package's parity on the device and stores the outcome in it; see :func:`check_parity`.

    Returns:
        The package, which passed.

    Raises:
        ParityError: it failed, which the package says as well.
        DeviceError: the device did not answer; the package stays unchecked.
    """
    limit = target.data_type.parity_limit
    try:
        error = check_parity(package, net, target, endpoint)
    except ParityError as problem:
        package.with_description(parity=Parity(verdict="failed", limit=limit, reason=str(problem)))
        raise
    return package.with_description(parity=Parity(verdict="passed", limit=limit, error=error))


def check_parity(package: Package, net: ArchNet, target: ResolvedTarget, endpoint: Endpoint) -> float:
    """Runs the package on the device and compares its outputs with PyTorch's; returns the largest relative error.

    Raises:
        ParityError: the error is above the limit of the target's dtype, or an output of either side is not finite.
        DeviceError: the device did not answer.
    """
    worst, dtype = 0.0, target.data_type
    deadline = target.timeouts.connect + target.timeouts.session
    expected = _expected(net, package.input_shape, dtype)
    with worker_for(target, endpoint) as worker:
        for image, output in zip(parity_inputs(package.input_shape, dtype), expected, strict=True):
            got = worker.call(run_library, str(package.library), [image], seconds=deadline)
            if not np.isfinite(got).all():
                raise ParityError(
                    f"the compiled net's output on the device is not finite, PyTorch's is; package {package.folder} "
                    "must not be shipped"
                )
            worst = max(worst, relative_error(got, output))
    limit = dtype.parity_limit
    if not worst <= limit:
        raise ParityError(
            f"the compiled net differs from PyTorch by {worst:.2e} relative on the device (limit {limit:g}); "
            f"package {package.folder} must not be shipped"
        )
    return worst


def _expected(net: ArchNet, shape: Sequence[int], dtype: DType) -> list[npt.NDArray[Any]]:
    """PyTorch's outputs for the parity images, in the dtype's reference type; ParityError if one is not finite."""
    reference = torch_type(dtype.reference)
    precise = copy.deepcopy(net).eval().to(reference)
    with torch.no_grad():
        images = (torch.from_numpy(image).to(reference) for image in parity_inputs(shape, dtype))
        outputs = [precise(image).numpy() for image in images]
    if not all(np.isfinite(output).all() for output in outputs):
        raise ParityError(
            f"net {format_arch(net.arch, net.space)} is refused: PyTorch's own output is not finite (NaN or infinity "
            "in its weights or statistics); train it again"
        )
    return outputs


def relative_error(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """max |got - expected| / max |expected|; infinite when shapes differ or a value of either side is not finite."""
    if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return float("inf")
    # In double precision: differences of large finite values must not overflow.
    wanted = expected.astype(np.float64)
    return float(np.abs(got.astype(np.float64) - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
