"""Maps contexts to tuning databases: each context has a folder of its own, whose ``context.json`` names it.

A target's first context uses ``tuning_logs/TARGET/database``, every other one ``database-KEY`` beside it. A folder
without ``context.json`` is from an older version; it is used only if the measurements beside it prove that it belongs
to this context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmfbnet.advice import tune
from tvmfbnet.errors import StorageError
from tvmfbnet.files import make_folder, write_json
from tvmfbnet.latency.context import Context, choose_context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.lines import UNREADABLE
from tvmfbnet.latency.measurement import NET
from tvmfbnet.progress import say

SCHEMA_VERSION = 1
TRIALS = "trials.jsonl"
_CONTEXT = "context.json"
_FILES = ("database_tuning_record.json", "database_workload.json", TRIALS, _CONTEXT)


def database_folder(folder: Path) -> Path:
    """Folder of the tuning database of a target's first context: ``tuning_logs/TARGET/database``."""
    return folder / "database"


def folder_to_write(folder: Path, context: Context) -> Path:
    """The folder to write a context's schedules to, claimed if it is new. The target's lock must be held.

    Args:
        folder: the target's folder in ``tuning_logs``.
        context: with what the device reported.
    """
    for path, stored in stored_contexts(folder).items():
        if stored == context:
            return path
    path = database_folder(folder)
    adopted = _begun(path) and _is_proven(folder, path, context)
    if _begun(path) and not adopted:
        path = folder / f"database-{context.key}"
        if not _begun(path):
            say(f"note: {database_folder(folder)} holds {_whose(folder, context)}; this context starts {path.name}")
    make_folder(path)
    write_json(path / _CONTEXT, {"schema_version": SCHEMA_VERSION, "keyed": not adopted, "context": context.to_dict()})
    return path


def folder_to_read(folder: Path, wanted: Context, device_model: str | None = None) -> Path | None:
    """The folder of the schedules that a reader may use; None where nothing was tuned for the target.

    Args:
        folder: the target's folder in ``tuning_logs``.
        wanted: what the reader knows of its context.
        device_model: use the schedules of this device model; by default those of the model measured last.

    Raises:
        StorageError: there are only schedules of other contexts; says what to do.
        LatencyError: there is nothing of ``device_model``.
    """
    stored = stored_contexts(folder)
    fitting = {path: context for path, context in stored.items() if context is not None and wanted.admits(context)}
    if len(fitting) > 1 or device_model is not None:
        recorded = [item.context for item in Journal(folder / "latency.jsonl").read()]
        order = {context: number for number, context in enumerate(recorded)}
        by_age = sorted(fitting.values(), key=lambda context: order.get(context, -1))
        chosen = choose_context(by_age, wanted, device_model, str(folder))
        fitting = {path: context for path, context in fitting.items() if context == chosen}
    for path in fitting:
        return path
    legacy = database_folder(folder)
    if stored.get(legacy, wanted) is None and _is_proven(folder, legacy, wanted):
        return legacy
    if not stored:
        return None
    raise StorageError(
        f"the schedules in {folder} belong to {_whose(folder, wanted)} and cannot be used; "
        f"run {tune(wanted.target)} to tune for this one"
    )


def stored_contexts(folder: Path) -> dict[Path, Context | None]:
    """The databases in a target's folder and their contexts; None where a database does not name its own."""
    paths = [database_folder(folder), *sorted(folder.glob("database-*"))]
    return {path: _context_of(path) for path in paths if _begun(path)}


def is_keyed(path: Path) -> bool:
    """Whether every schedule in a folder was written with a key, as all are unless an older version created it."""
    try:
        return bool(json.loads((path / _CONTEXT).read_bytes())["keyed"])
    except (OSError, *UNREADABLE):
        return False


def _begun(path: Path) -> bool:
    return any((path / name).exists() for name in _FILES)


def _context_of(path: Path) -> Context | None:
    try:
        value = json.loads((path / _CONTEXT).read_bytes())
        if value["schema_version"] != SCHEMA_VERSION:
            raise ValueError("another version")
        return Context.from_dict(value["context"])
    except (OSError, *UNREADABLE):
        return None


def _whose(folder: Path, wanted: Context) -> str:
    """A phrase on how the contexts in a folder differ from the wanted one."""
    told = [
        "an unknown TVM and device (no valid context.json)"
        if context is None
        else f"another context ({wanted.difference(context)})"
        for context in stored_contexts(folder).values()
    ]
    return " and ".join(dict.fromkeys(told))


def _is_proven(folder: Path, path: Path, wanted: Context) -> bool:
    """Whether a folder from an older version belongs to ``wanted``, by all measurements beside it and all its records.

    Each measurement names its context, and each record its TVM target.
    """
    if (path / _CONTEXT).exists():
        return False
    recorded = [item.context for item in Journal(folder / "latency.jsonl").read() if item.part.part != NET]
    if not recorded or not all(wanted.admits(context) for context in recorded):
        return False
    try:
        lines = (path / "database_tuning_record.json").read_bytes().splitlines()
    except OSError:
        return False
    asked = json.loads(wanted.tvm_target)
    return bool(lines) and all(_is_for(line, asked) for line in lines)


def _is_for(line: bytes, asked: Mapping[str, Any]) -> bool:
    """Whether a record names the requested TVM target, which TVM writes with more defaults."""
    try:
        return _within(asked, json.loads(line)[1][2])
    except (IndexError, *UNREADABLE):
        return True  # a broken record proves nothing


def _within(asked: Any, recorded: Any) -> bool:
    if isinstance(asked, dict) and isinstance(recorded, dict):
        return all(name in recorded and _within(value, recorded[name]) for name, value in asked.items())
    return bool(asked == recorded)
