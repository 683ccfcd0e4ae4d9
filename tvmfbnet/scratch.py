"""Temporary folders that never pile up: each is named after its owner, and later processes remove stale ones.

A killed process cannot clean up after itself. So the folder's name identifies its owner: process id, process start
time, and the machine and process namespace in which both are valid. The name exists as soon as the folder does, so a
live process's folder never looks ownerless.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PREFIX = "tvmfbnet-"
_NAME = re.compile(rf"{PREFIX}(?P<home>[0-9a-f]{{8}})-(?P<pid>\d+)-(?P<started>\d+)-")


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A temporary folder for the block. If the process is killed, a later process removes it.

    Args:
        parent: where to create it; None for the system's temporary folder.
    """
    folder = new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(parent: Path | None = None) -> Path:
    """As :func:`scratch_folder`, for callers that remove it themselves."""
    where = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(where)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_home()}-{os.getpid()}-{started(os.getpid())}-", dir=where))


def sweep(where: Path) -> list[Path]:
    """Removes the folders in ``where`` that this user's dead processes left behind; returns them.

    Never touches folders of live processes, other users, other machines or containers, links, or other names.
    """
    removed = []
    for folder in where.glob(f"{PREFIX}*"):
        try:
            facts = folder.lstat()
        except OSError:
            continue  # another process removed it first
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and _is_abandoned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_abandoned(name: str) -> bool:
    owner = _NAME.match(name)
    if owner is None or owner["home"] != _home():
        return False
    return started(int(owner["pid"])) != int(owner["started"])


def started(pid: int) -> int | None:
    """When a process started, as a number unaffected by clock changes; None where there is no such process."""
    try:  # ticks since the machine's start; the command's name may hold blanks and brackets
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]) if fields[0] not in "XZ" else None
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    import psutil

    try:
        return round(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


@cache
def _home() -> str:
    """A digest of the scope of process ids: the machine and, in a container, its namespace."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]
