"""What other targets' trials can teach: the templated trials of their logs, asked for by name.

Never used unasked: an emulated device's times, or those of a quite different CPU, would mislead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from tvmfbnet.autotune.database_folders import TRIALS, database_folder, stored_contexts
from tvmfbnet.autotune.knobs import Registers
from tvmfbnet.autotune.templates import has_templates, registers_of
from tvmfbnet.autotune.trial_log import Templated, TrialLog
from tvmfbnet.errors import UserError
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.targets.definition import ResolvedTarget, Target, load_target, resolve

# Fewer valid trials teach nothing.
_FEWEST = 48


@dataclass(frozen=True)
class Lesson:
    """The trials of another target.

    Attributes:
        target: its name.
        registers: of its CPU.
        trials: of templates, at least some of them valid.
    """

    target: str
    registers: Registers
    trials: tuple[Templated, ...]


def read_lessons(names: Sequence[str], target: Target, root: Path | None = None) -> tuple[Lesson, ...]:
    """Reads the trials of other targets, each once.

    Args:
        names: of targets, or their ``.yaml`` files.
        target: the one that is to learn.
        root: folder of all targets' logs.

    Raises:
        UserError: no such target, no log of it (or too few trials in it), the target itself, or kernels that are not
            made from templates.
    """
    if names and not has_templates(resolve(target).for_tvm()):
        raise UserError(f"--learn-from: kernels of target {target.name} are not made from templates; leave it out")
    others = {other.name: other for other in (load_target(name) for name in names)}
    return tuple(_read(other, target, root) for other in others.values())


def _read(other: Target, target: Target, root: Path | None) -> Lesson:
    if other.name == target.name:
        raise UserError(f"--learn-from {other.name}: a target learns from its own trials anyway; name another")
    path, tvm_target = _log_of(resolve(other), root)
    compiled_for = tvm.target.Target(tvm_target)
    if not has_templates(compiled_for):
        raise UserError(f"--learn-from {other.name}: its kernels are not made from templates; name a CPU target")
    if not path.is_file():
        raise UserError(f"--learn-from {other.name}: there is no {path}; tune that target first, or copy its folder")
    trials = tuple(trial for trials in TrialLog(path).templated.values() for trial in trials)
    valid = sum(trial.best_ms is not None for trial in trials)
    if valid < _FEWEST:
        raise UserError(f"--learn-from {other.name}: {path} holds {valid} valid trials of templates, needed: {_FEWEST}")
    return Lesson(other.name, registers_of(compiled_for), trials)


def _log_of(other: ResolvedTarget, root: Path | None) -> tuple[Path, dict[str, Any]]:
    """The log of trials to learn from, and what its kernels were compiled for.

    Of several contexts, the one that is the target's today; else the first: lessons are asked for by name, and what
    they hold for is said by the CPU that they were made on.
    """
    folder = target_folder(other.name, root)
    stored, wanted = stored_contexts(folder), context_of(other).compile_side
    path = next((path for path, found in stored.items() if found and wanted.admits(found)), database_folder(folder))
    found = stored.get(path)
    return path / TRIALS, json.loads(found.tvm_target) if found is not None else other.tvm
