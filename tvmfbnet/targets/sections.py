"""The sections of a target's file: toolchain, transport, timing policy, timeouts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tvmfbnet.config import Config
from tvmfbnet.targets.simulated import known_core


class Toolchain(Config):
    """How kernels become a library that the device can load.

    ``cxx``: a C++ compiler command (found on PATH); ``zig``: the ziglang wheel as a cross linker (``triple``);
    ``ndk``: clang of the Android NDK, from $TVM_NDK_CC.
    """

    kind: Literal["cxx", "zig", "ndk"] = Field(default="cxx", description="what links kernels into a library")
    command: str = Field(default="c++", description="the C++ compiler of kind cxx")
    triple: str = Field(default="", description="what zig links for, such as aarch64-linux-gnu.2.28")
    options: tuple[str, ...] = Field(default=(), description="extra options of the linker call")


class Transport(Config):
    """How to connect to the device: ``local`` starts tracker and server on loopback; ``tracker`` uses a running one.

    For ``local``, ``server`` is TVM's own (``python``) or our device program (``native``), and ``emulator`` is a
    command that runs another machine's programs here.
    """

    kind: Literal["local", "tracker"] = Field(
        default="tracker", description="local: start a tracker and a server on this machine; tracker: use a running one"
    )
    host: str = Field(default="127.0.0.1", description="address of the tracker")
    port: int = Field(default=9190, ge=1, le=65535, description="port of the tracker")
    key: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9_.-]+$", description="key under which the target's devices register"
    )
    server: Literal["python", "native"] = Field(
        default="python", description="for local: TVM's own server, or our device program"
    )
    emulator: tuple[str, ...] = Field(
        default=(), description="for local: a command that runs another machine's programs"
    )


class Simulation(Config):
    """Which core a simulated device has; everything else about it is in the core's own file."""

    core: str = Field(description="a core of `tvmfbnet/simulation/cores`, such as a76, or a .yaml file of one")

    @field_validator("core")
    @classmethod
    def _check_core(cls, value: str) -> str:
        return known_core(value)


class TimingPolicy(Config):
    """How a latency is measured on the device (see :mod:`tvmfbnet.profiling.canary`).

    Devices that are not simulated need at least 3 ``repeats`` and ``chain_runs``, of at least 1 ms
    (:mod:`tvmfbnet.targets.simulated`).
    """

    warmup: int = Field(default=3, ge=0, le=10_000, description="untimed calls before the first repeat")
    repeats: int = Field(
        default=10, ge=1, le=10_000, description="timed repeats; the latency is their median, stored with their spread"
    )
    min_repeat_ms: int = Field(default=20, ge=0, le=60_000, description="minimum time of a repeat, milliseconds")
    chain_rounds: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="on CPUs: how often a part is timed inside nets, each time with different neighbours",
    )
    chain_runs: int = Field(
        default=10, ge=1, le=10_000, description="on CPUs: timed runs of each of those nets per measurement pass"
    )
    visits: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="measurement passes: how often a net is timed, with others in between",
    )
    rotate_mb: float = Field(
        default=16,
        ge=0,
        le=4096,
        description="on GPUs: MiB of weight copies that the timing of a part cycles through",
    )
    trial_rotate_mb: float = Field(
        default=8,
        ge=0,
        le=4096,
        description="on CPUs: MiB of weight copies that the timing of a trial cycles through",
    )
    energy_rounds: int = Field(
        default=5, ge=2, le=1000, description="rounds of a measurement of energy: an idle device, then a running one"
    )
    energy_seconds: float = Field(default=0.5, gt=0, le=600, description="seconds of either half of such a round")
    trial_repeats: int = Field(default=2, ge=1, le=1000, description="repeats of one tuning trial")
    trial_min_ms: int = Field(default=5, ge=0, le=60_000, description="minimum time of a trial's repeat, milliseconds")
    cooldown_seconds: float = Field(default=0, ge=0, le=86_400, description="cooldown before a measurement, seconds")
    drift_limit: float = Field(
        default=0.1, gt=0, le=100, description="largest relative drift of the canary kernel before a cooldown"
    )
    rest_seconds: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="longest total cooldown, seconds, waiting for the canary; then unsteady parts are only marked",
    )


class Timeouts(Config):
    """Deadlines, in seconds. Nothing that talks to a device waits longer than these."""

    connect: float = Field(default=20, gt=0, le=86_400, description="seconds until a device answers")
    session: int = Field(default=120, gt=0, le=86_400, description="seconds of one session with a device")
    trial: float = Field(default=10, gt=0, le=86_400, description="seconds of one tuning trial")
    build: float = Field(default=60, gt=0, le=86_400, description="seconds of one trial's build")
