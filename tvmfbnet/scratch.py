"""Temporary folders that never pile up: each names its owner, and the next start removes those of dead owners.

A process that is killed cannot clean up after itself. So the name of each folder tells whose it is: process id, the
moment that process started, and the machine (with its namespace of processes) on which both mean anything. A name is
there as soon as its folder is, so there is no moment at which a folder of a living process looks ownerless.
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
    """A folder for the block, then gone with what is in it; left by a killed process, it goes at the next start.

    Args:
        parent: where to make it; the system's folder for temporary files if None.
    """
    folder = new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(parent: Path | None = None) -> Path:
    """As :func:`scratch_folder`, for those who remove it themselves."""
    where = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(where)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_home()}-{os.getpid()}-{started(os.getpid())}-", dir=where))


def sweep(where: Path) -> list[Path]:
    """Removes the folders in ``where`` that dead processes of this user left; returns them.

    Left alone: folders of living processes, of other users, of other machines and containers, links, other names.
    """
    removed = []
    for folder in where.glob(f"{PREFIX}*"):
        try:
            facts = folder.lstat()
        except OSError:
            continue  # somebody else was quicker
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and _is_abandoned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_abandoned(name: str) -> bool:
    found = _NAME.match(name)
    if found is None or found["home"] != _home():
        return False
    return started(int(found["pid"])) != int(found["started"])


def started(pid: int) -> int | None:
    """When a process started, as a number that no clock being set changes; None where there is no such process."""
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
    """Where this process's id means something: the machine and, in a container, its namespace."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]
