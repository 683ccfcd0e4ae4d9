"""Transfer between targets: the templated trials in other targets' logs, requested by name.

Never used by default: times of an emulated device, or of a very different CPU, would mislead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from tvmfbnet.autotune.database_folders import TRIALS, database_folder, stored_contexts
from tvmfbnet.autotune.machines import Machine
from tvmfbnet.autotune.templates import machine_of
from tvmfbnet.autotune.trial_log import Templated, TrialLog
from tvmfbnet.errors import UserError
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.targets.definition import ResolvedTarget, Target, load_target, resolve
from tvmfbnet.targets.tvm_target import compiles_for_cpu

# Fewer valid trials are not worth a transfer.
_MIN_VALID_TRIALS = 48


@dataclass(frozen=True)
class TransferSource:
    """The trials of another target.

    Attributes:
        target: its name.
        machine: what is known of its CPU or GPU.
        trials: templated trials, some of which may have failed.
    """

    target: str
    machine: Machine
    trials: tuple[Templated, ...]


def read_sources(names: Sequence[str], target: Target, root: Path | None = None) -> tuple[TransferSource, ...]:
    """Reads the trials of other targets, each once.

    Args:
        names: target names or ``.yaml`` files.
        target: to transfer to.
        root: folder of all targets' logs.

    Raises:
        UserError: an unknown target, one without a log (or with too few trials), the target itself, or a CPU for
            a GPU and the other way round.
    """
    others = {(other.name, other.dtype): other for other in (load_target(name) for name in names)}
    return tuple(_read(other, target, root) for other in others.values())


def _read(other: Target, target: Target, root: Path | None) -> TransferSource:
    if (other.name, other.dtype) == (target.name, target.dtype):
        raise UserError(f"--learn-from {other.name}: a target learns from its own trials anyway; name another")
    path, tvm_target = _log_of(resolve(other), root)
    compiled_for = tvm.target.Target(tvm_target)
    if compiles_for_cpu(compiled_for) != resolve(target).on_cpu:
        raise UserError(
            f"--learn-from {other.name}: CPUs and GPUs have other templates; name a target of the same sort"
        )
    if not path.is_file():
        raise UserError(f"--learn-from {other.name}: there is no {path}; tune that target first, or copy its folder")
    trials = tuple(trial for trials in TrialLog(path).templated.values() for trial in trials)
    valid = sum(trial.best_ms is not None for trial in trials)
    if valid < _MIN_VALID_TRIALS:
        raise UserError(
            f"--learn-from {other.name}: {path} holds {valid} valid trials of templates, needed: {_MIN_VALID_TRIALS}"
        )
    return TransferSource(other.name, machine_of(compiled_for), trials)


def _log_of(other: ResolvedTarget, root: Path | None) -> tuple[Path, dict[str, Any]]:
    """The log of a transfer source, and the TVM target of its kernels.

    Of several contexts, the target's current one, else the first: sources are requested by name, and their TVM target
    tells which CPU they are from.
    """
    folder = target_folder(other.name, root)
    stored, wanted = stored_contexts(folder), context_of(other).compile_side
    admitted = (path for path, context in stored.items() if context and wanted.admits(context))
    path = next(admitted, database_folder(folder))
    context = stored.get(path)
    return path / TRIALS, json.loads(context.tvm_target) if context is not None else other.tvm
