"""Simulated targets: what their files leave out, what they cannot do, and what identifies them.

A simulated device is our device server under an emulator, with a core's model for a clock (``tvmfbnet.simulation``). It
is deterministic, so everything is timed once: there is no noise to average, no drift and nothing to cool down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvmfbnet.errors import UserError
from tvmfbnet.files import digest
from tvmfbnet.simulation.cores import Core, load_core
from tvmfbnet.simulation.version import simulator_version

if TYPE_CHECKING:
    from tvmfbnet.targets.definition import Target

# What the instructions of every core compute in; no model of the cores' half arithmetic was compared with a device.
DTYPES = ("float32", "int8")
# One run of everything. The evaluator makes an untimed call before each, so that caches are as in continuous use; and
# parts are timed among two sets of neighbours, as on a device.
_TIMING = {"warmup": 0, "repeats": 1, "min_repeat_ms": 0, "chain_rounds": 2, "chain_runs": 1, "visits": 1}
_TRIALS = {"trial_repeats": 1, "trial_min_ms": 0, "trial_rotate_mb": 0}
# Below these a real device's noise shows.
_LEAST = {"repeats": 3, "min_repeat_ms": 1, "chain_runs": 3, "trial_min_ms": 1}


def with_defaults(content: Any) -> Any:
    """A target's plain data, before validation: what a simulated one leaves out is filled in."""
    if not isinstance(content, dict) or content.get("simulation") is None:
        return content
    timing = content.get("timing", {})
    filled = {"transport": {"kind": "local", "key": content.get("name", ""), "server": "native"}, **content}
    return {**filled, "timing": {**_TIMING, **_TRIALS, **timing} if isinstance(timing, dict) else timing}


def check(target: Target) -> None:
    """Refuses what a simulated device cannot do, and of any other one a timing policy that no noise survives.

    Raises:
        ValueError: says what and why.
    """
    if target.simulation is None:
        for name, least in _LEAST.items():
            if getattr(target.timing, name) < least:
                raise ValueError(f"timing.{name}: must be at least {least}, but on simulated devices")
        return
    if target.threads > 1:
        raise ValueError(f"threads is {target.threads}, but the clock of a simulated device models one core: write 1")
    if target.cores:
        raise ValueError(f"cores is {target.cores}, but a simulated device has one core: leave cores out")
    if target.dtype not in DTYPES:
        raise ValueError(f"dtype is {target.dtype}, but simulated devices compute in {' and '.join(DTYPES)} alone")
    if (target.tvm["kind"], target.tvm.get("mtriple")) != ("llvm", "aarch64-linux-gnu"):
        raise ValueError("tvm must be {kind: llvm, mtriple: aarch64-linux-gnu}: the cores that are simulated are ARM's")
    transport = target.transport
    if transport.kind != "local" or transport.server != "native" or transport.emulator:
        raise ValueError("transport: a simulated device is started here (kind local, server native, no emulator)")


def core_of(target: Target) -> Core | None:
    """The core that a target simulates; None for a real or emulated one."""
    return None if target.simulation is None else load_core(target.simulation.core)


def require_core(target: Target) -> Core:
    """The core that a target simulates; UserError if it simulates none."""
    core = core_of(target)
    if core is None:
        raise UserError(f"target {target.name} is not simulated")
    return core


def known_core(name: str) -> str:
    """A core's name, checked; ValueError lists the known ones."""
    try:
        load_core(name)
    except UserError as error:
        raise ValueError(str(error)) from error
    return name


def model_of(core: Core, llvm_version: str) -> str:
    """The device model that a simulated device reports: core, product, and which version of their model.

    Such as ``simulated Cortex-A76 (Raspberry Pi 5), model 4f1c2a9b``. LLVM's schedules are a part of the model.
    """
    name, product = core.description.split(",")[0], core.device.split(" (")[0]
    return f"simulated {name} ({product}), model {digest([model_digest(core), llvm_version])[:8]}"


def model_digest(core: Core) -> str:
    """Identifies a core's content and the simulator together: figures of one never mix with those of another."""
    return digest([core.digest, simulator_version()])
