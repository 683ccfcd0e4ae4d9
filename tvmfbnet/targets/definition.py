"""Target definitions: what to compile for, with which toolchain, and how to connect to the device and measure on it.

A target is one YAML file in ``targets/``; users put theirs beside the shipped ones, in ``./targets``, or pass a path.
No TVM here: the TVM target stays plain data until the compiler needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from tvmfbnet.batches import LARGEST_BATCH, name_with_batch, named_batch, split_batch
from tvmfbnet.config import MOST_THREADS, Config, validate
from tvmfbnet.dtypes import DTYPES, FLOAT32, DType, dtype_named, require_dtype, split_dtype
from tvmfbnet.errors import UserError
from tvmfbnet.files import digest, read_yaml
from tvmfbnet.machine import core_numbers, format_cores, parse_cores
from tvmfbnet.shipped import Shipped, is_file_name
from tvmfbnet.targets import simulated
from tvmfbnet.targets.sections import Simulation, Timeouts, TimingPolicy, Toolchain, Transport
from tvmfbnet.targets.tvm_target import CPU_KINDS, plain_target

TargetT = TypeVar("TargetT", bound="Target")


class Target(Config):
    """One target: the content of ``targets/NAME.yaml``."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        max_length=100,
        description="name of its measurements",
    )
    description: str = Field(description="one line for people")
    exercised: bool = Field(description="whether a run on such a device was done and recorded")
    tvm: dict[str, Any] = Field(description="TVM target: kind, mtriple, mcpu, ...; mcpu: native means this machine's")
    toolchain: Toolchain = Toolchain()
    transport: Transport
    simulation: Simulation | None = Field(default=None, description="the core of a simulated device; null: a real one")
    device: Literal["cpu", "opencl", "metal"] = Field(default="cpu", description="compute device")
    threads: int = Field(default=1, ge=1, le=MOST_THREADS, description="worker threads on the device")
    cores: str = Field(default="", max_length=400, description="cores to run on, such as 4-7; empty: all")
    dtype: str = Field(
        default=FLOAT32.name,
        description=f"of weights and activations: {' or '.join(f'`{name}`' for name in DTYPES)}",
    )
    batch: int = Field(default=1, ge=1, le=LARGEST_BATCH, description="images of a call; above 1 on CPUs only")
    layout: Literal["NHWC"] = Field(default="NHWC", description="of activations inside a net")
    timing: TimingPolicy = TimingPolicy()
    timeouts: Timeouts = Timeouts()

    @classmethod
    def load(cls, name_or_file: str | Path) -> Target:
        """A target by its name in ``./targets`` or among the shipped ones, or from a ``.yaml`` file.

        ``,dtype=float16`` at the end changes its dtype: ``host,dtype=float16``; ``,batch=8`` its batch.

        Raises:
            UserError: there is no target of that name, or the file is missing or malformed; lists all problems.

        Example:
            >>> import tvmfbnet as tf
            >>> tf.Target.load("rpi4").system
            'aarch64-linux'
        """
        return load_target(str(name_or_file))

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        value = simulated.with_defaults(value)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return value
        batch = value.get("batch", 1)
        return {**value, "name": name_with_batch(value["name"], batch) if isinstance(batch, int) else value["name"]}

    @field_validator("dtype", mode="before")
    @classmethod
    def _check_dtype(cls, value: Any) -> Any:
        return require_dtype(value)

    @field_validator("tvm", mode="before")
    @classmethod
    def _check_plain(cls, value: Any) -> Any:
        """Runs before anything else walks the value: YAML can express cycles, and billions of values in a few lines."""
        return plain_target(value)

    @field_validator("cores")
    @classmethod
    def _check_cores(cls, value: str) -> str:
        parse_cores(value)
        return value

    @model_validator(mode="after")
    def _check_tvm(self) -> Target:
        kind = self.tvm.get("kind")
        expected = {"cpu": CPU_KINDS, "opencl": ("opencl",), "metal": ("metal",)}[self.device]
        if kind not in expected:
            raise ValueError(f"tvm.kind is {kind!r}, but device {self.device!r} needs {' or '.join(expected)}")
        named = len(self.core_numbers)
        if 0 < named < self.threads:
            raise ValueError(f"threads is {self.threads}, but cores names {named}: name as many, or leave cores out")
        if kind not in self.data_type.kinds:
            raise ValueError(
                f"dtype is {self.dtype}, which has kernels for {', '.join(self.data_type.kinds)} alone, not for "
                f"tvm.kind {kind}"
            )
        if kind == "c" and self.threads > 1:
            raise ValueError("threads is more than 1, but TVM's C code has no parallel loops: use tvm.kind llvm")
        simulated.check(self)
        if self.batch > 1:
            self._check_batch()
        return self

    def _check_batch(self) -> None:
        if not self.on_cpu:
            raise ValueError(f"batch is {self.batch}, but kernels of {self.device} take one image: leave it out")
        if self.data_type.is_quantised:
            raise ValueError(
                f"batch is {self.batch}, but kernels in {self.dtype} take one image: use float32 or float16"
            )
        if self.is_simulated:
            raise ValueError(f"batch is {self.batch}, but simulated cores time one image: leave it out")

    @property
    def is_simulated(self) -> bool:
        """Whether its device's clock is a model: what is timed there is simulated, never measured."""
        return self.simulation is not None

    @property
    def data_type(self) -> DType:
        """What the name ``dtype`` stands for."""
        return dtype_named(self.dtype)

    @property
    def on_cpu(self) -> bool:
        """Whether kernels run on the device's CPU: called one after another, scheduled and timed as such."""
        return self.tvm["kind"] in CPU_KINDS

    @property
    def is_native(self) -> bool:
        """Whether the file leaves it to this machine what CPU it compiles for; :func:`resolve` then loads TVM."""
        host = self.tvm.get("host")
        return "native" in (self.tvm.get("mcpu"), host.get("mcpu") if isinstance(host, dict) else None)

    @property
    def core_numbers(self) -> tuple[int, ...]:
        """The cores to run on; empty for all."""
        return parse_cores(self.cores)

    @property
    def triple(self) -> str:
        """LLVM's triple of the device's CPU; empty for this machine."""
        host = self.tvm if self.on_cpu else self.tvm.get("host", {})
        return str(host.get("mtriple", "")) if isinstance(host, dict) else ""

    @property
    def system(self) -> Literal["host", "aarch64-linux", "android", "apple"]:
        """The kind of system that the device's programs are built for.

        Raises:
            UserError: an unsupported system.
        """
        if not self.triple:
            return "host"
        if "android" in self.triple:
            return "android"
        if "apple" in self.triple:
            return "apple"
        if self.triple.startswith("aarch64") and "linux" in self.triple:
            return "aarch64-linux"
        raise UserError(
            f"target {self.name}: no device programs for {self.triple}; known are aarch64 Linux and Android"
        )

    def tvm_json(self) -> str:
        """The TVM target as canonical JSON: the identity that measurements and tuning databases carry."""
        return json.dumps(self.tvm, sort_keys=True, separators=(",", ":"))


def _shipped() -> Shipped:
    """``./targets``, then those beside this file if installed, or of the repository in a checkout."""
    package = Path(__file__).resolve().parent
    ours = package if any(package.glob("*.yaml")) else package.parent.parent / "targets"
    return Shipped("target", (Path("targets"), ours))


def list_targets() -> list[str]:
    """Names of all targets in ``./targets`` and the shipped folder."""
    return _shipped().names()


def load_target(name_or_file: str) -> Target:
    """Reads a target by name, or from a ``.yaml`` file; ``,dtype=float16`` at the end goes before the file's dtype,
    and ``,batch=8`` before its batch.

    Raises:
        UserError: unknown target (lists the known ones), or a malformed file (lists every problem).
    """
    name_or_file, dtype = split_dtype(name_or_file)
    name_or_file, batch = split_batch(name_or_file)
    if name_or_file.startswith("simulated:"):
        raise UserError(
            f"{name_or_file[:80]} is a simulated processor: it has latencies to search on, and no device to compile "
            "for, tune or time; name a target"
        )
    if batch is None and not is_file_name(name_or_file) and name_or_file not in list_targets():
        plain, named = named_batch(name_or_file)  # as packages name it
        name_or_file, batch = (plain, named) if named > 1 else (name_or_file, None)
    path = _shipped().path(name_or_file)
    content = read_yaml(path)
    changes = {"dtype": dtype, "batch": batch}
    if isinstance(content, dict):
        content = {**content, **{name: value for name, value in changes.items() if value is not None}}
    return validate(Target, content, str(path))


def is_target(text: str) -> bool:
    """Whether a text spells a target: a ``.yaml`` file, or the name of one that there is, with or without a dtype."""
    name, _ = split_batch(split_dtype(text)[0])
    names = list_targets()
    return is_file_name(name) or name in names or named_batch(name)[0] in names


def measured_name(name_or_file: str) -> str:
    """The name under which a target's measurements are stored: from its file, or that of an imported table.

    Args:
        name_or_file: a ``.yaml`` file, a known target, or the name of an imported table; any of them with a dtype.

    Raises:
        UserError: the file is missing or malformed.
    """
    return load_target(name_or_file).name if is_target(name_or_file) else _imported(name_or_file)


def _imported(text: str) -> str:
    """The name of an imported table, of its own for each batch."""
    name, batch = split_batch(split_dtype(text)[0])
    return name_with_batch(name, batch or 1)


def measured_dtype(name_or_file: str) -> str | None:
    """The dtype whose measurements a text means: the one it spells, else the target's; None for an imported table.

    Raises:
        UserError: the file is missing or malformed.
    """
    return load_target(name_or_file).dtype if is_target(name_or_file) else split_dtype(name_or_file)[1]


def in_dtype(target: TargetT, dtype: str | None) -> TargetT:
    """A target in another dtype; the same one for None, or for its own.

    Raises:
        UserError: the dtype is not registered, or the target has no kernels of it.
    """
    if dtype is None or dtype_named(dtype).name == target.dtype:
        return target
    return validate(type(target), {**dict(target), "dtype": dtype}, f"target {target.name}")


class ResolvedTarget(Target):
    """A target with all machine-dependent settings filled in, as compiling, tuning and timing require.

    Created only by :func:`resolve`.
    """

    def for_tvm(self) -> Any:
        """The ``tvm.target.Target``."""
        import tvm

        return tvm.target.Target(self.tvm)


def resolve(target: Target) -> ResolvedTarget:
    """Fills in a target's machine-dependent settings.

    ``mcpu: native`` becomes LLVM's name of this machine's CPU, with ``mattr`` where a virtual machine hides some of its
    features; of a simulated target ``mcpu`` is its core's, unless the file has one; ``num-cores``, by which TVM
    parallelises loops, becomes the target's threads. Loads TVM if the CPU is native, so only code that compiles should
    call it.
    """
    if isinstance(target, ResolvedTarget):
        return target
    tvm_target = dict(target.tvm)
    host = tvm_target.get("host")
    if tvm_target.get("mcpu") == "native":
        tvm_target |= _native(tvm_target)
    if isinstance(host, dict) and host.get("mcpu") == "native":
        tvm_target["host"] = host | _native(host)
    core = simulated.core_of(target)
    if core is not None:
        tvm_target.setdefault("mcpu", core.codegen_cpu)
    if tvm_target["kind"] == "llvm":
        tvm_target["num-cores"] = target.threads
    return ResolvedTarget.model_validate({**dict(target), "tvm": tvm_target})


def _native(tvm_target: dict[str, Any]) -> dict[str, Any]:
    """The settings behind ``mcpu: native``; features in the file take precedence."""
    from tvmfbnet.targets.cpu_features import native_cpu

    mcpu, differences = native_cpu()
    given = tvm_target.get("mattr", [])
    mattr = [*differences, *(given if isinstance(given, list) else [given])]
    return {"mcpu": mcpu, "mattr": mattr} if mattr else {"mcpu": mcpu}


def require_cores(target: Target) -> None:
    """Refuses a local target whose cores this machine lacks, or does not let this process use.

    Raises:
        UserError: lists the usable cores.
    """
    here = core_numbers()
    absent = tuple(core for core in target.core_numbers if core not in here)
    if absent:
        raise UserError(
            f"target {target.name}: cores is {target.cores}, but {format_cores(absent)} is not here; "
            f"this machine lets us use {format_cores(here)}"
        )


def target_key(target: ResolvedTarget) -> str:
    """The identity of a resolved target: a digest (16 hex digits) of everything that affects its code or its speed.

    Connection, timing policy and description affect neither. The toolchain only links, except where TVM generates C for
    it to compile. Of a simulated target the model counts as well: the core's content and the simulator's version.
    """
    identity: dict[str, Any] = {
        "tvm": target.tvm,
        "device": target.device,
        "threads": target.threads,
        "cores": sorted(target.core_numbers),
        "dtype": target.dtype,
        "layout": target.layout,
        "emulator": list(target.transport.emulator) if target.transport.kind == "local" else [],
    }
    if target.batch > 1:
        identity["batch"] = target.batch
    if (core := simulated.core_of(target)) is not None:
        identity["simulation"] = simulated.model_digest(core)
    if target.tvm.get("kind") == "c":
        identity["toolchain"] = target.toolchain.model_dump(mode="json")
    return digest(identity)
