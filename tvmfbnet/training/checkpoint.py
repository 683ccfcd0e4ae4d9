"""Checkpoints of long runs: plain tensors and numbers in one file, written atomically, refused clearly when unfit.

Nothing is pickled but what torch loads with ``weights_only=True``, so a checkpoint cannot run code and does not rot
with a class that is renamed. Nothing read is trusted unchecked: checksums cover every byte, and the writer's schema
(:class:`State`) covers the values.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from tvmfbnet.config import problems_of
from tvmfbnet.errors import MissingBlockError, StorageError
from tvmfbnet.files import storage_errors, write_atomically
from tvmfbnet.training.memory import is_out_of_memory

VERSION = 1


class State(BaseModel):
    """Base of checkpoint schemas: every field present and of its type, no others, finite numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )


Tensors = dict[str, torch.Tensor]
"""A module's state by name."""


def save_checkpoint(path: Path, kind: str, state: dict[str, Any]) -> None:
    """Writes ``state`` (nested dicts and lists of tensors, numbers, strings) atomically.

    Args:
        path: the file.
        kind: what it is a checkpoint of ("search", "training", "net"); checked when it is loaded.
        state: everything needed to resume.
    """
    record = {"kind": kind, "version": VERSION, **state}
    try:
        write_atomically(path, lambda temporary: torch.save(record, temporary))
    except RuntimeError as error:  # torch reports a full disk so
        if is_out_of_memory(error):
            raise
        raise StorageError(f"cannot write {path}: {str(error).splitlines()[0]}") from error


def load_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Reads a checkpoint of :func:`save_checkpoint`; StorageError if it is missing, damaged or something else."""
    with storage_errors(path, "read"):
        path.open("rb").close()
    try:
        _verify(path)
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers fail in any way at all on bytes that are no checkpoint
        if is_out_of_memory(error):
            raise
        raise StorageError(f"{path} is not a readable checkpoint; remove it to start again") from error
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise StorageError(f"{path} is not a checkpoint of a {kind}")
    if record.get("version") != VERSION:
        raise StorageError(f"{path} was written by another version of tvmfbnet (format {record.get('version')})")
    return record


def _verify(path: Path) -> None:
    """Reads all parts of the file and verifies their checksums, which torch writes but does not verify."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if len({part.filename for part in parts}) != len(parts):
            raise zipfile.BadZipFile("two parts of one name")
        for part in parts:
            if part.external_attr:  # torch writes none, and reads what looks like a folder as whatever was in memory
                raise zipfile.BadZipFile(f"{part.filename} is no plain file")
            with archive.open(part) as stream:
                while stream.read(2**20):
                    pass


@contextmanager
def damage_named(path: Path, advice: str = "remove it to start again") -> Iterator[None]:
    """Turns any error while a checkpoint's content is used into a StorageError that names the file."""
    try:
        yield
    except MissingBlockError:
        raise  # the file is whole: what defines its blocks is missing
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = "; ".join(problems_of(error)) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise StorageError(f"{path} is damaged or of another version ({what[:200]}); {advice}") from error


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Loads an optimiser's moments from a checkpoint; its settings stay as constructed.

    Raises:
        ValueError: moments of other parameters or another optimiser.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimiser, torch.optim.Adam) else {"momentum_buffer"}
    for index, moments in saved["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters):
            raise ValueError(f"moments of a parameter {index!r} that is not there")
        if moments and set(moments) != names:
            raise ValueError(f"moments {sorted(map(str, moments))} instead of {sorted(names)}")
        for name, moment in moments.items():
            shape = torch.Size([]) if name == "step" else parameters[index].shape
            if moment is None:
                continue
            if not torch.is_tensor(moment) or moment.shape != shape or (name == "step" and not moment >= 0):
                raise ValueError(f"{name} of parameter {index} does not fit it")
    optimiser.load_state_dict({"state": saved["state"], "param_groups": optimiser.state_dict()["param_groups"]})


def require_same(path: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses to continue a checkpoint under other settings; StorageError lists the settings that differ."""
    changed = differences(recorded, wanted)
    if changed:
        raise StorageError(f"{path} belongs to a run with other settings ({changed}): use another --out, or remove it")


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The differences between two identities, in words; empty if there are none. Long values are named, not shown."""
    changes = []
    for name in sorted(set(recorded) | set(wanted)):
        old, new = recorded.get(name), wanted.get(name)
        if old == new:
            continue
        if name == "data":
            changes.append("the data set had other content")
        elif isinstance(old, dict | list) or isinstance(new, dict | list):
            changes.append(f"{name} had other content")
        else:
            changes.append(f"{name} was {_short(old)}, now {_short(new)}")
    return "; ".join(changes)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def rng_state() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global random generators, fit for a checkpoint."""
    version, numbers, gauss = random.getstate()
    name, keys, *position = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *position],
        "python": [version, list(numbers), gauss],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Restores the global random generators from :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    name, keys, *position = state["numpy"]
    if keys.shape != (624,) or not 0 <= position[0] <= len(keys):  # numpy itself does not look
        raise ValueError("not a state of numpy's random generator")
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
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
