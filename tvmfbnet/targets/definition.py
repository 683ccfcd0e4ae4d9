"""Target definitions: what to compile for, with which toolchain, how to reach the device and how to measure on it.

A target is one YAML file in ``targets/``; users put theirs beside the shipped ones, in ``./targets``, or name a path.
No TVM here: the TVM target stays plain data until the compiler needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tvmfbnet.config import MOST_THREADS, Config, validate
from tvmfbnet.errors import UserError
from tvmfbnet.files import digest, read_yaml
from tvmfbnet.machine import core_numbers, format_cores, parse_cores
from tvmfbnet.shipped import Shipped, is_file_name
from tvmfbnet.targets.tvm_target import CPU_KINDS, plain_target


class Toolchain(Config):
    """How kernels become a library that the device can load.

    ``cxx``: a C++ compiler command (found on PATH); ``zig``: the ziglang wheel as a cross linker (``triple``);
    ``ndk``: clang of the Android NDK, from $TVM_NDK_CC.
    """

    kind: Literal["cxx", "zig", "ndk"] = Field(default="cxx", description="what links kernels into a library")
    command: str = Field(default="c++", description="the C++ compiler of kind cxx")
    triple: str = Field(default="", description="what zig links for, such as aarch64-linux-gnu.2.28")
    options: tuple[str, ...] = Field(default=(), description="more options of the linker call")


class Transport(Config):
    """How the device is reached: ``local`` starts a tracker and a server on loopback; ``tracker`` is one that runs.

    For ``local``, ``server`` is TVM's own (``python``) or our device program (``native``), and ``emulator`` is a
    command that runs another machine's programs here.
    """

    kind: Literal["local", "tracker"] = Field(
        default="tracker", description="local: tracker and server are started here; tracker: one that runs"
    )
    host: str = Field(default="127.0.0.1", description="address of the tracker")
    port: int = Field(default=9190, ge=1, le=65535, description="port of the tracker")
    key: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$", description="what the target's devices register under")
    server: Literal["python", "native"] = Field(
        default="python", description="for local: TVM's own server, or our device program"
    )
    emulator: tuple[str, ...] = Field(
        default=(), description="for local: a command that runs another machine's programs"
    )


class TimingPolicy(Config):
    """How a latency is measured on the device (see :mod:`tvmfbnet.profiling.canary`)."""

    warmup: int = Field(default=3, ge=0, le=10_000, description="untimed calls before the first repeat")
    repeats: int = Field(
        default=10, ge=3, le=10_000, description="timed repeats; their median is the latency, their spread is kept"
    )
    min_repeat_ms: int = Field(default=20, ge=1, le=60_000, description="least time of a repeat, milliseconds")
    chain_rounds: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="on CPUs: how often a part is timed inside nets, each time among other neighbours",
    )
    chain_runs: int = Field(
        default=10, ge=3, le=10_000, description="on CPUs: timed runs of each of those nets in a visit"
    )
    visits: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="measurement passes: how often a net is timed, others in between",
    )
    rotate_mb: float = Field(
        default=16,
        ge=0,
        le=4096,
        description="on GPUs: MiB of weight copies that the timing of a part goes around",
    )
    trial_rotate_mb: float = Field(
        default=8,
        ge=0,
        le=4096,
        description="on CPUs: MiB of weight copies that the timing of a trial goes around",
    )
    trial_repeats: int = Field(default=2, ge=1, le=1000, description="repeats of one tuning trial")
    trial_min_ms: int = Field(default=5, ge=1, le=60_000, description="least time of a trial's repeat, milliseconds")
    cooldown_seconds: float = Field(default=0, ge=0, le=86_400, description="cooldown before a measurement, seconds")
    drift_limit: float = Field(
        default=0.1, gt=0, le=100, description="largest relative drift of the canary kernel before a cooldown"
    )
    rest_seconds: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="longest cooldown in all, seconds, waiting for the canary; then unsteady parts are only marked",
    )


class Timeouts(Config):
    """Deadlines, in seconds. Nothing that talks to a device waits longer than these."""

    connect: float = Field(default=20, gt=0, le=86_400, description="seconds until a device answers")
    session: int = Field(default=120, gt=0, le=86_400, description="seconds of one session with a device")
    trial: float = Field(default=10, gt=0, le=86_400, description="seconds of one tuning trial")
    build: float = Field(default=60, gt=0, le=86_400, description="seconds of one trial's build")


class Target(Config):
    """One target: everything that ``targets/NAME.yaml`` says."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100, description="what its measurements are kept under"
    )
    description: str = Field(description="one line for people")
    exercised: bool = Field(description="whether a run on such a device has been done and recorded")
    tvm: dict[str, Any] = Field(description="TVM target: kind, mtriple, mcpu, ...; mcpu: native means this machine's")
    toolchain: Toolchain = Toolchain()
    transport: Transport
    device: Literal["cpu", "opencl", "metal"] = Field(default="cpu", description="what computes")
    threads: int = Field(default=1, ge=1, le=MOST_THREADS, description="worker threads on the device")
    cores: str = Field(default="", max_length=400, description="cores to run on, such as 4-7; empty: all")
    dtype: Literal["float32"] = Field(default="float32", description="of weights and activations")
    layout: Literal["NHWC"] = Field(default="NHWC", description="of activations inside a net")
    timing: TimingPolicy = TimingPolicy()
    timeouts: Timeouts = Timeouts()

    @field_validator("dtype", mode="before")
    @classmethod
    def _one_precision(cls, value: Any) -> Any:
        if value != "float32":
            raise ValueError(f"{value!r} is not supported: nets are compiled and timed in float32 only")
        return value

    @field_validator("tvm", mode="before")
    @classmethod
    def _check_plain(cls, value: Any) -> Any:
        """Before anything else walks through it: YAML can say cycles, and billions of values in a few lines."""
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
        if kind == "c" and self.threads > 1:
            raise ValueError("threads is more than 1, but TVM's C code has no parallel loops: use tvm.kind llvm")
        return self

    @property
    def on_cpu(self) -> bool:
        """Whether kernels run on the device's CPU: called one after another, scheduled and timed as such."""
        return self.tvm["kind"] in CPU_KINDS

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
            UserError: a kind that nothing is known about.
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
    """``./targets``, then those beside this file when installed, or of the repository when run from a checkout."""
    package = Path(__file__).resolve().parent
    ours = package if any(package.glob("*.yaml")) else package.parent.parent / "targets"
    return Shipped("target", (Path("targets"), ours))


def list_targets() -> list[str]:
    """Names of all targets in ``./targets`` and the shipped folder."""
    return _shipped().names()


def load_target(name_or_file: str) -> Target:
    """Reads a target by name, or from a ``.yaml`` file.

    Raises:
        UserError: no such target (says what there is), or the file is malformed (says every problem).
    """
    path = _shipped().path(name_or_file)
    return validate(Target, read_yaml(path), str(path))


def measured_name(name_or_file: str) -> str:
    """The name that a target's measurements are kept under: what its file says; else that of an imported table.

    Args:
        name_or_file: a ``.yaml`` file, a known target, or the name that a foreign table was imported under.

    Raises:
        UserError: the file is missing or malformed.
    """
    is_target = is_file_name(name_or_file) or name_or_file in list_targets()
    return load_target(name_or_file).name if is_target else name_or_file


class ResolvedTarget(Target):
    """A target as it is compiled for: nothing is left to the machine. Whatever compiles, tunes or times takes one.

    Made by :func:`resolve` alone.
    """

    def for_tvm(self) -> Any:
        """The ``tvm.target.Target``."""
        import tvm

        return tvm.target.Target(self.tvm)


def resolve(target: Target) -> ResolvedTarget:
    """The target as it is compiled for: what the file leaves to the machine is filled in.

    ``mcpu: native`` becomes LLVM's name of this machine's CPU, with ``mattr`` where a virtual machine hides some of its
    features; ``num-cores``, by which TVM makes loops parallel, becomes the target's threads. Loads TVM where the CPU is
    native, so only those who compile call it.
    """
    if isinstance(target, ResolvedTarget):
        return target
    tvm_target = dict(target.tvm)
    host = tvm_target.get("host")
    if tvm_target.get("mcpu") == "native":
        tvm_target |= _native(tvm_target)
    if isinstance(host, dict) and host.get("mcpu") == "native":
        tvm_target["host"] = host | _native(host)
    if tvm_target["kind"] == "llvm":
        tvm_target["num-cores"] = target.threads
    return ResolvedTarget.model_validate({**dict(target), "tvm": tvm_target})


def _native(described: dict[str, Any]) -> dict[str, Any]:
    """What ``mcpu: native`` stands for; what the file says of features counts more."""
    from tvmfbnet.targets.cpu_features import native_cpu

    mcpu, different = native_cpu()
    asked = described.get("mattr", [])
    mattr = [*different, *(asked if isinstance(asked, list) else [asked])]
    return {"mcpu": mcpu, "mattr": mattr} if mattr else {"mcpu": mcpu}


def require_cores(target: Target) -> None:
    """Refuses cores that this machine does not have, or does not let this process use; for a target that runs here.

    Raises:
        UserError: says which there are.
    """
    here = core_numbers()
    absent = tuple(core for core in target.core_numbers if core not in here)
    if absent:
        raise UserError(
            f"target {target.name}: cores is {target.cores}, but {format_cores(absent)} is not here; "
            f"this machine lets us use {format_cores(here)}"
        )


def target_key(target: ResolvedTarget) -> str:
    """What a resolved target is: 16 hex digits of all that changes the code made for it, or how fast that runs.

    How the device is reached, how often it is timed and how the target is described change neither. The toolchain only
    links, except where TVM writes C for it to compile.
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
    if target.tvm.get("kind") == "c":
        identity["toolchain"] = target.toolchain.model_dump(mode="json")
    return digest(identity)
