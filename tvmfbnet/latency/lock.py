"""One lock per target, for tuning and measuring alike: two at once would disturb each other's times.

The second process waits, says in one line which process holds the lock, and then starts from all that the first one
stored. It is a lock of the operating system, so it ends with its process, however that ends. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tvmfbnet.files import make_folder, storage_errors, write_json
from tvmfbnet.latency.lines import UNREADABLE
from tvmfbnet.progress import say, step


@contextmanager
def target_lock(folder: Path) -> Iterator[None]:
    """Holds a target's lock; the same thread may take it again within.

    Args:
        folder: the target's folder in ``tuning_logs``.

    Raises:
        StorageError: the folder is not writable.
    """
    path = make_folder(folder) / ".lock"
    lock = FileLock(str(path.resolve()), is_singleton=True)
    with storage_errors(path, "lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{holder(folder)} is tuning or measuring in {folder}; waiting for it to end")
            with step("waiting for the target's lock"):
                lock.acquire(timeout=-1)
    try:
        if lock.lock_counter == 1:
            _write_note(folder)
        yield
    finally:
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):
                _note(folder).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str:
    """Who holds a target's lock, for people: process, command and start time, as far as known."""
    try:
        note = json.loads(_note(folder).read_text(encoding="utf-8"))
        return f"process {int(note['pid'])} ({str(note['command'])[:200]}, since {str(note['since'])[:40]})"
    except (OSError, *UNREADABLE):
        return "another process"


def _note(folder: Path) -> Path:
    return folder / ".lock-holder.json"


def _write_note(folder: Path) -> None:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(_note(folder), {"pid": os.getpid(), "command": command, "since": since})
