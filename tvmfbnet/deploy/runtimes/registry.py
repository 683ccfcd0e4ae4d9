"""The runtimes that ``tvmfbnet bench --runtime`` knows."""

from __future__ import annotations

from tvmfbnet.deploy.runtimes.onnx_runtime import OnnxRuntime
from tvmfbnet.deploy.runtimes.runtime import Runtime
from tvmfbnet.deploy.runtimes.tvm_runtime import TvmRuntime
from tvmfbnet.errors import RuntimeUnavailableError, UserError
from tvmfbnet.targets.definition import Target

OURS = TvmRuntime()
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OURS, OnnxRuntime())}
# Timed beside the package where they can run, unless others are named.
DEFAULTS = ("onnxruntime",)


def runtime_named(name: str) -> Runtime:
    """The runtime of a name; :class:`UserError` lists the known ones."""
    if name not in RUNTIMES:
        raise UserError(f"unknown runtime {name!r}: known are {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def rivals(names: tuple[str, ...] | None, target: Target) -> list[Runtime]:
    """The runtimes to time beside the package, each once.

    Args:
        names: as asked for; None for the defaults that can run on the target.
        target: to run on.

    Raises:
        UserError: an unknown name.
        RuntimeUnavailableError: one that was asked for cannot run on the target; says why.
    """
    chosen = [runtime_named(name) for name in dict.fromkeys(DEFAULTS if names is None else names)]
    reasons = {runtime.name: runtime.unavailable(target) for runtime in chosen}
    for runtime in chosen:
        if names is not None and (reason := reasons[runtime.name]) is not None:
            raise RuntimeUnavailableError(f"runtime {runtime.name} cannot be timed: {reason}")
    return [runtime for runtime in chosen if reasons[runtime.name] is None and runtime.name != OURS.name]
