"""Checkpoints of long runs: plain tensors and numbers in one file, written atomically, refused clearly when unfit.

Nothing is pickled but what torch loads with ``weights_only=True``, so a checkpoint cannot run code and does not rot
with a class that is renamed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvmfbnet.errors import StorageError
from tvmfbnet.files import storage_errors, write_atomically

VERSION = 1


def save_checkpoint(path: Path, kind: str, state: dict[str, Any]) -> None:
    """Writes ``state`` (nested dicts and lists of tensors, numbers, strings) atomically.

    Args:
        path: the file.
        kind: what it is a checkpoint of ("search", "training", "net"); checked when it is loaded.
        state: all there is to go on from.
    """
    record = {"kind": kind, "version": VERSION, **state}
    try:
        write_atomically(path, lambda temporary: torch.save(record, temporary))
    except RuntimeError as error:  # torch reports a full disk so
        raise StorageError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def load_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Reads what :func:`save_checkpoint` wrote; StorageError when that is missing, damaged or something else."""
    with storage_errors(path, "read"):
        path.open("rb").close()
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader fails in any way at all on bytes that are no checkpoint
        raise StorageError(f"{path} is not a readable checkpoint; remove it to start anew") from error
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise StorageError(f"{path} is not a checkpoint of a {kind}")
    if record.get("version") != VERSION:
        raise StorageError(f"{path} was written by another version of tvmfbnet (format {record.get('version')})")
    return record


def require_same(path: Path, recorded: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to continue a checkpoint under other settings; StorageError lists the settings that differ."""
    changed = [
        f"{name} was {_short(recorded.get(name))}, now {_short(wanted.get(name))}"
        for name in sorted(set(recorded) | set(wanted))
        if recorded.get(name) != wanted.get(name)
    ]
    if changed:
        raise StorageError(
            f"{path} belongs to a run with other settings ({'; '.join(changed)}): use another --out, or remove it"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def rng_state() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global random generators, fit for a checkpoint."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Sets the global random generators to what :func:`rng_state` gave."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


@contextmanager
def seeded(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seeds all global generators for a block of code, optionally sets torch's threads, and puts everything back."""
    before, threads_before = rng_state(), torch.get_num_threads()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        restore_rng(before)
        torch.set_num_threads(threads_before)
