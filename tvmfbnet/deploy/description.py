"""A package's description, ``package.json``: what it was compiled for, its parity verdict and its measured latency.

A package that was compiled for something else is refused with both sides named, and so is one whose outputs differ from
PyTorch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from tvmfbnet.deploy.outputs import OutputTensor
from tvmfbnet.dtypes import FLOAT32, bytes_of
from tvmfbnet.errors import ArchError, PackageError, ParityError, StorageError
from tvmfbnet.files import Stored, read_model
from tvmfbnet.progress import say
from tvmfbnet.run_files import FineTuningRecord, LatencyOriginRecord
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import ResolvedTarget, Target, resolve
from tvmfbnet.tasks import CLASSIFICATION

# What `mcpu: native` fills in.
_NATIVE_FIELDS = ("mcpu", "mattr", "num-cores", "host")
LIBRARY, MODEL, DESCRIPTION = "net.so", "net.onnx", "package.json"

# What a compiled net takes, in bytes.
MEMORY = ("peak_memory_bytes", "weight_bytes", "library_bytes", "model_bytes")

# What a comparison of a package's classes with those of the float32 net tells, in files of packages and runs.
COMPARED = ("agreement", "images", "accuracy", "float32_accuracy")

# Classes that are listed for people.
_NAMED = 10

_Count = Annotated[int, Field(ge=0)]
_Latency = Annotated[float, Field(gt=0, le=1e9)]


class Parity(Stored):
    """Whether the package's outputs on the device equal PyTorch's.

    Attributes:
        verdict: ``unchecked`` until it has run on a device.
        error: largest relative difference; None if unknown or not finite. Of several outputs that of the worst.
        output_errors: the same of each output by its name, where there are several.
        limit: the largest that passes.
        reason: why it failed.
        agreement: with the answers of the net in float32 on test images: in classification the share that gets the same
            class; None if not compared.
        images: how many they were.
        accuracy: the task's accuracy (top-1 in classification) on these images, on the device; None if not compared.
        float32_accuracy: that of the net in float32.
    """

    verdict: Literal["passed", "failed", "unchecked"] = "unchecked"
    error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    output_errors: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    reason: str = ""
    agreement: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    images: _Count = 0
    accuracy: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    float32_accuracy: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    def describe_agreement(self) -> str | None:
        """The agreement for people; None if it was not compared."""
        if self.agreement is None:
            return None
        told = f"{self.agreement:.2%} agreement with float32 on {self.images} test images"
        if self.accuracy is None or self.float32_accuracy is None:
            return told
        return f"{told}; accuracy {self.accuracy:.2%} instead of {self.float32_accuracy:.2%}"


class PredictedEnergy(Stored):
    """Energy of one inference above idle, summed up over the parts of a latency table, and what told those."""

    energy_mj: Annotated[float, Field(ge=0, le=1e9)]
    energy_spread_mj: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    energy_source: str = ""

    def describe(self) -> str:
        """For people."""
        return f"{self.energy_mj:.3g} mJ an inference ({self.energy_source or 'source unknown'})"


class PackageDescription(Stored):
    """The content of ``package.json``; fields of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    arch: str
    space: str
    input_shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    target: str
    tvm_target: dict[str, Any]
    tvm_version: str
    threads: int = Field(ge=1)
    dtype: str = Field(default=FLOAT32.name, description="of weights and activations; older packages do not say")
    float32_units: tuple[str, ...] = Field(
        default=(), description="stem, layers and head that compute in float32 in a net of mixed dtypes"
    )
    input_dtype: str = Field(default=FLOAT32.name, description="of the input and the outputs")
    outputs: tuple[OutputTensor, ...] = Field(
        default=(),
        description="name, shape and dtype of each, in order; older packages, which have one, do not say",
    )
    context: dict[str, Any] = Field(default_factory=dict)
    library: str = LIBRARY
    model: str = MODEL
    library_sha256: str = ""
    model_sha256: str = ""
    peak_memory_bytes: _Count | None = Field(
        default=None, description="most that activations take at once by the static memory plan, the output included"
    )
    weight_bytes: _Count | None = Field(default=None, description="of the weights in the library")
    library_bytes: _Count | None = Field(default=None, description="of the library file: weights and kernels")
    model_bytes: _Count | None = Field(default=None, description="of the same net as ONNX, for other runtimes")
    task: str = Field(default=CLASSIFICATION, description="what the net was trained for; older packages do not say")
    class_names: tuple[str, ...] = Field(
        default=(), description="the class (or value) of each output, in order; empty if unknown"
    )
    kernels_needed: _Count
    kernels_found: _Count
    kernels_missing: tuple[str, ...]
    parity: Parity = Parity()
    fine_tuning: FineTuningRecord | None = Field(
        default=None, description="whether fine-tuning made the quantised net better; None without any"
    )
    latency: dict[str, Any] | None = Field(
        default=None, description="measured latency with its conditions; None before the first measurement"
    )
    latency_target_ms: _Latency | None = Field(
        default=None, description="the latency target of the net; None without one"
    )
    predicted_ms: _Latency | None = Field(
        default=None, description="latency by the target's table at compile time; None without a table"
    )
    predicted_energy: PredictedEnergy | None = Field(
        default=None, description="energy by the target's table at compile time; None where it has none of every part"
    )
    latency_source: LatencyOriginRecord | None = Field(
        default=None, description="where the latencies come from that the net was chosen or predicted by"
    )

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the outputs, in order."""
        return tuple(output.name for output in self.outputs) or ("output",)

    @property
    def on_simulated(self) -> bool:
        """Whether simulated latencies, and no device's, chose the net or predicted its latency."""
        return self.latency_source is not None and self.latency_source.simulated

    def describe_memory(self) -> str:
        """What the compiled net takes, for people; older packages do not say."""
        peak, weights, library = (getattr(self, name) for name in MEMORY[:3])
        if None in (peak, weights, library):
            return "memory: not recorded"
        kilobytes = [f"{taken / 1e3:.1f} kB" for taken in (peak, weights, library)]
        return f"memory: {kilobytes[0]} of activations at once, {kilobytes[1]} of weights, {kilobytes[2]} of library"

    @field_validator("input_dtype")
    @classmethod
    def _check_numeric(cls, value: str) -> str:
        bytes_of(value)
        return value


def describe_outputs(described: PackageDescription, folder: Path) -> list[str]:
    """What a package answers, for people: its outputs where there are several, and its classes where they are known."""
    several, names = len(described.outputs) > 1, described.class_names
    shapes = [f"{output.name} {'x'.join(map(str, output.shape))}" for output in described.outputs]
    lines, what = ([f"outputs: {', '.join(shapes)}"], "classes") if several else (list[str](), "outputs")
    if names:
        all_named = len(names) <= _NAMED
        where = f"{what}, in order: {', '.join(names)}"
        lines.append(where if all_named else f"{len(names)} {what}, named in {folder / DESCRIPTION}")
    return lines


def read_description(folder: Path) -> PackageDescription:
    """Reads a package's description; :class:`StorageError` names the file and its first problems."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise StorageError(f"{folder} holds no package ({DESCRIPTION} is missing): give the --out folder of a compile")
    try:
        return read_model(path, PackageDescription)
    except StorageError as error:
        raise StorageError(f"{error}; compile the net again") from error


def require_fit(folder: Path, described: PackageDescription, target: ResolvedTarget, tvm_version: str) -> None:
    """Refuses a package that was compiled for another machine, TVM, number of threads or precision.

    Raises:
        PackageError: names every difference with both sides.
    """
    _refuse_unfit(folder, described, target, dict(described.tvm_target), target.tvm, tvm_version)
    if described.target != target.name:
        say(
            f"warning: package {folder} was compiled for {described.target}; {target.name} is the same except for its "
            "name"
        )


def require_same_kind(folder: Path, described: PackageDescription, target: Target) -> None:
    """As :func:`require_fit`, for what is known before TVM is loaded: a native CPU and TVM's version are not.

    Raises:
        PackageError: names every difference with both sides.
    """
    mine, theirs = dict(described.tvm_target), dict(target.tvm if target.is_native else resolve(target).tvm)
    if target.is_native:
        mine, theirs = ({name: side[name] for name in side if name not in _NATIVE_FIELDS} for side in (mine, theirs))
    _refuse_unfit(folder, described, target, mine, theirs, described.tvm_version)


def _refuse_unfit(
    folder: Path,
    described: PackageDescription,
    target: Target,
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    tvm_version: str,
) -> None:
    """Compares TVM targets, threads, dtype and version of TVM."""
    problems = []
    if mine != theirs:
        sides = machine_of(described.tvm_target), machine_of(target.tvm)
        if sides[0] == sides[1]:  # features, for example
            sides = _different(mine, theirs), _different(theirs, mine)
        problems.append(f"was compiled for {described.target} ({sides[0]}), not for {target.name} ({sides[1]})")
    if described.threads != target.threads:
        problems.append(
            f"was compiled for {described.threads} thread(s), and target {target.name} uses {target.threads}"
        )
    if described.input_shape[0] != target.batch:
        problems.append(f"computes {described.input_shape[0]} image(s) a call, and target {target.name} {target.batch}")
    if described.dtype != target.dtype:
        problems.append(f"computes in {described.dtype}, and target {target.name} in {target.dtype}")
    if described.tvm_version != tvm_version:
        problems.append(f"was compiled with TVM {described.tvm_version}, and this is TVM {tvm_version}")
    if problems:
        raise PackageError(
            f"package {folder} {'; it '.join(problems)}: compile the net for --target {target.name} again"
        )


def _different(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The fields of a TVM target that differ from another's."""
    names = (name for name in sorted({*mine, *other}) if mine.get(name) != other.get(name))
    return ", ".join(f"{name} {mine.get(name, 'unset')}" for name in names)


def machine_of(tvm_target: Mapping[str, Any]) -> str:
    """The machine that a TVM target compiles for, for people: ``aarch64-linux-gnu, cortex-a72``."""
    host = tvm_target.get("host")
    where = host if isinstance(host, Mapping) else tvm_target
    facts = [str(where[key]) for key in ("mtriple", "mcpu") if where.get(key)]
    if where is host:
        facts.insert(0, " ".join(str(tvm_target[key]) for key in ("kind", "device", "model") if tvm_target.get(key)))
    return ", ".join(facts) or str(tvm_target.get("kind", "unknown"))


def require_parity(folder: Path, parity: Parity, force: bool) -> None:
    """Refuses a package that failed the parity check unless forced; warns of one that was never checked.

    Raises:
        ParityError: it failed.
    """
    if parity.verdict == "failed":
        problem = f"package {folder} failed the parity check: {parity.reason or 'its outputs differ from PyTorch'}"
        if not force:
            raise ParityError(f"{problem} (--force opens it anyway)")
        say(f"warning: {problem}")
    elif parity.verdict == "unchecked":
        say(f"warning: package {folder} was never compared with PyTorch on a device (compiled with --build-only?)")


def require_same_net(checkpoint: Path, arch: Arch, trained: Space, wanted: Space) -> None:
    """Refuses a checkpoint whose space makes another net of the arch than the requested space.

    Names, descriptions and candidate blocks that the arch does not use do not count.

    Raises:
        ArchError: names every difference with both sides.
    """
    pairs = [
        ("input", _input(trained), _input(wanted)),
        ("classes", trained.classes, wanted.classes),
        ("stem", trained.stem.name, wanted.stem.name),
        ("head", trained.head_kind, wanted.head_kind),
        ("head channels", trained.last_channels, wanted.last_channels),
        ("layers", len(trained.layers), len(wanted.layers)),
    ]
    for block, left, right in zip(arch.blocks, trained.layers, wanted.layers, strict=False):
        pairs.append((f"layer {left.index}", left.cell(block).name, right.cell(block).name))
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    if differing:
        first = "; ".join(
            f"{name} {mine} in the checkpoint, {theirs} asked for" for name, mine, theirs in differing[:4]
        )
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        hint = f" (append `,classes={trained.classes}` to the space)" if trained.classes != wanted.classes else ""
        raise ArchError(f"{checkpoint} holds a net of space {trained.name}, not of {wanted.name}: {first}{more}{hint}")


def _input(space: Space) -> str:
    return f"{space.input_channels}x{space.height}x{space.width}"
