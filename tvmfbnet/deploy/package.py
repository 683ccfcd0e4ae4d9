"""Compiling a net into a package: library (with weights), ONNX model and description, gated on a parity check.

A package is a folder: ``net.so``, ``net.onnx``, ``package.json``. The description (:mod:`tvmfbnet.deploy.description`)
says what the package was compiled for, whether its outputs match PyTorch's, and its measured latency.
"""

from __future__ import annotations

# TVM before torch: else the first error that TVM catches takes a second, to read torch's symbols for a backtrace.
import tvmfbnet.autotune  # noqa: F401  # isort: skip

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx
import torch
import tvm

from tvmfbnet.autotune.database import TuningDatabase, joined_records
from tvmfbnet.compiler.export import export_net, randomise_biases
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import Coverage, build_prepared, coverage, lower, plan_memory, prepare
from tvmfbnet.compiler.memory_plan import net_memory
from tvmfbnet.compiler.mixed_export import export_mixed_net
from tvmfbnet.deploy.description import (
    DESCRIPTION,
    LIBRARY,
    MODEL,
    PackageDescription,
    read_description,
    require_fit,
    require_parity,
)
from tvmfbnet.deploy.outputs import outputs_of_model
from tvmfbnet.deploy.parity import expected_outputs
from tvmfbnet.dtypes import DType, random_tensor
from tvmfbnet.errors import PackageError, StorageError
from tvmfbnet.files import checksum, make_folder, storage_errors, write_atomically, write_json
from tvmfbnet.library_calls import OnProgress, library_call
from tvmfbnet.nets.bn_folding import randomise_bn
from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.profiling.parts import context_of
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import ResolvedTarget, Target, load_target, resolve
from tvmfbnet.tasks import CLASSIFICATION

if TYPE_CHECKING:
    from tvmfbnet.deploy.bench import BenchResult


def random_images(space: Space, dtype: DType) -> list[npt.NDArray[Any]]:
    """Calibration images for a net with random weights, whose ranges mean nothing; none where a dtype needs none."""
    shape = (1, space.input_channels, space.height, space.width)
    return [random_tensor(shape, "float32", seed) for seed in range(2)] if dtype.is_quantised else []


def untrained_net(arch: Arch, space: Space) -> ArchNet:
    """A net with random weights and random batch-norm statistics, for compiling and timing without training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_net(arch, space)
        randomise_biases(net)
    randomise_bn(net, seed=0)
    return net


@dataclass(frozen=True)
class Float32Units:
    """What of a net in int8 stays in float32.

    Attributes:
        names: of the units (:func:`tvmfbnet.space.borders.units_of`).
        database: the target's schedules in float32.
    """

    names: tuple[str, ...]
    database: TuningDatabase | None


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
        energy_source: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> BenchResult:
        """Times the package on its device, in turn with other runtimes on the same machine.

        Args:
            target: where to; by default what it was compiled or opened for.
            latency_target_ms: judge the latency by this; by default by what it was made to meet.
            sustained_seconds: then measure the sustained latency over this time; 0 for not at all.
            runtimes: names of the other runtimes; by default ONNX Runtime where it can run.
            energy_source: then measure the energy of one inference: ``auto``, ``rapl`` or ``command:...``.
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
            where = self._opened_for(target)
            return bench_on_device(self, where, sustained_seconds, latency_target_ms, runtimes, energy_source)

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
        """(images of a call, channels, height, width)."""
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

    @property
    def package_bytes(self) -> int:
        """Bytes on disk, now: library, ONNX model and description."""
        with storage_errors(self.folder, "read"):
            return sum((self.folder / name).stat().st_size for name in (LIBRARY, MODEL, DESCRIPTION))

    @property
    def shipped_bytes(self) -> int:
        """Bytes on disk, now, of what a device needs: library and description."""
        return self.package_bytes - self.model.stat().st_size

    def require_size(self, most: int | None) -> None:
        """Refuses it where a device needs more than ``most`` bytes of it.

        Raises:
            PackageError: says how large its files are; it stays on disk.
        """
        if most is not None and self.shipped_bytes > most:
            library = self.library.stat().st_size
            raise PackageError(
                f"package {self.folder} takes {self.shipped_bytes:,} bytes on a device (the library {library:,}), "
                f"{self.shipped_bytes - most:,} more than the {most:,} allowed: compile a smaller net"
            )

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
    images: Sequence[npt.NDArray[Any]] = (),
    model: onnx.ModelProto | None = None,
    float32: Float32Units | None = None,
    task: str = CLASSIFICATION,
) -> Package:
    """Compiles a net for a target with its tuned schedules; no tuning happens here.

    The package is marked as unchecked until :func:`tvmfbnet.deploy.parity.certify`. Its description stores
    ``class_names``, one per output, and ``task``, what the net was trained for. ``images`` are calibration images
    (1, C, H, W), which int8 alone needs. ``model`` is the net in the target's dtype where it was exported before, such
    as fine-tuned. With ``float32`` an int8 target's net has mixed dtypes.

    Raises:
        ParityError: PyTorch's own output is not finite; nothing is written.
        UserError: the toolchain is missing, or the calibration images.
        StorageError: ``out`` is not writable.
    """
    space, dtype = net.space, target.data_type
    shape = (target.batch, space.input_channels, space.height, space.width)
    expected_outputs(net, shape, dtype)
    make_folder(out)
    with storage_errors(out / DESCRIPTION, "remove"):  # an older one would not match the new files
        (out / DESCRIPTION).unlink(missing_ok=True)
    compiled_for = target.for_tvm()
    records = joined_records(database, None if float32 is None else float32.database)
    if model is None:
        model = (
            export_net(net.eval(), dtype, images, target.batch)
            if float32 is None
            else export_mixed_net(net, float32.names, images)
        )
    lowered = lower(model, compiled_for)
    kernels = coverage(lowered, compiled_for, records)
    prepared = prepare(lowered, compiled_for, records)
    memory = net_memory(plan_memory(prepared, compiled_for))
    executable = build_prepared(prepared, compiled_for)
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
        float32_units=() if float32 is None else float32.names,
        input_dtype=dtype.boundary,
        context=vars(context_of(target)),
        task=task,
        class_names=tuple(class_names),
        outputs=outputs_of_model(model),
        library_sha256=checksum(out / LIBRARY),
        model_sha256=checksum(out / MODEL),
        peak_memory_bytes=memory.peak_bytes,
        weight_bytes=memory.weight_bytes,
        library_bytes=(out / LIBRARY).stat().st_size,
        model_bytes=(out / MODEL).stat().st_size,
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
