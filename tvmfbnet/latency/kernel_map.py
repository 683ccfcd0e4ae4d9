"""The kernels of each part of a target, and from them the part's latency as far as tuning measured it.

Lowering decides the kernels of a part, and only TVM can ask it; searching on a table must work without TVM. So
``kernels.json`` is a copy for those readers, which every tuning writes for all its parts before its first trial: for
each context the keys and numbers of each part's kernels, and the log of their trials. The file holds no times. A part's
kernel time is the sum over its kernels of their fastest trial, derived from the log
(:mod:`tvmfbnet.latency.trial_times`) whenever a table is loaded, so it cannot disagree with it.

The file can be deleted: the next tuning of a space writes the kernels of its parts again. Earlier versions stored sums
of times in place of kernels; these are used until the next tuning replaces them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tvmfbnet.files import write_json
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.lines import UNREADABLE
from tvmfbnet.latency.trial_times import best_times
from tvmfbnet.progress import say
from tvmfbnet.space.space import NetPart

SCHEMA_VERSION = 3
_SUMS_VERSION = 2  # stored the sums of times


def save_kernels(path: Path, context: Context, log: Path, kernels: Mapping[NetPart, Mapping[str, int]]) -> None:
    """Merges the kernels of parts into a target's file, which keeps other parts and contexts. The lock must be held.

    Args:
        path: ``kernels.json``.
        context: that the parts were lowered for.
        log: of the trials of their kernels; in the folder of ``path``, or below.
        kernels: of each part, the key and the number of call sites of each kernel.
    """
    stored = _stored(path)
    entry = _entry(stored, context)
    parts = {**_parts(entry), **{part: {"kernels": dict(counts)} for part, counts in kernels.items() if counts}}
    stored[context.key] = {
        "context": context.to_dict(),
        "trials": log.relative_to(path.parent).as_posix(),
        "parts": [{**part.to_dict(), **content} for part, content in parts.items()],
    }
    write_json(path, {"schema_version": SCHEMA_VERSION, "contexts": stored})


def load_kernel_times(path: Path, context: Context) -> dict[NetPart, float]:
    """Summed milliseconds of each part's kernels, timed alone, for a context.

    Parts with a kernel that has no valid trial are left out. Empty if nothing was tuned, or the file is damaged.

    Raises:
        StorageError: the log of trials cannot be read.
    """
    entry = _entry(_stored(path), context)
    if entry is None:
        return {}
    best_ms = best_times(path.parent / entry["trials"]) if "trials" in entry else {}
    times = {part: _sum_ms(content, best_ms) for part, content in _parts(entry).items()}
    return {part: ms for part, ms in times.items() if math.isfinite(ms) and ms > 0}


def _sum_ms(content: Mapping[str, Any], best_ms: Mapping[str, float]) -> float:
    """Milliseconds of one part's kernels; infinite where one has no time."""
    if "kernels" not in content:
        return float(content["kernel_ms"])
    return float(sum(count * best_ms.get(key, math.inf) for key, count in content["kernels"].items()))


def _parts(entry: Mapping[str, Any] | None) -> dict[NetPart, dict[str, Any]]:
    """What an entry knows of each part: its ``kernels``, or the ``kernel_ms`` of an earlier version."""
    parts: dict[NetPart, dict[str, Any]] = {}
    for record in [] if entry is None else entry["parts"]:
        content = {name: record[name] for name in ("kernels", "kernel_ms") if name in record}
        parts[NetPart.from_dict(record)] = content
    return parts


def _entry(stored: Mapping[str, Any], context: Context) -> dict[str, Any] | None:
    """The checked entry of a context; None if there is none, or it is of no known form."""
    entry = stored.get(context.key)
    try:
        if entry is None or entry["context"] != context.to_dict():
            return None
        log = PurePosixPath(entry.get("trials", ""))
        if log.is_absolute() or ".." in log.parts:
            raise ValueError("the log lies elsewhere")
        for content in _parts(entry).values():
            if "kernels" in content:
                _check_kernels(content["kernels"])
            else:
                float(content["kernel_ms"])
    except UNREADABLE:
        return None
    return dict(entry)


def _check_kernels(kernels: Any) -> None:
    if not kernels or not all(isinstance(count, int) and 0 < count < 1 << 20 for count in kernels.values()):
        raise ValueError("a kernel is called a whole number of times")


def _stored(path: Path) -> dict[str, Any]:
    """The file's entries by context key; empty if it is missing or damaged, as the next tuning writes it again."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
        return dict(value["contexts"]) if value["schema_version"] in (SCHEMA_VERSION, _SUMS_VERSION) else {}
    except (OSError, *UNREADABLE):
        say(f"warning: {path} is damaged and is not used; the next tuning writes it again")
        return {}
