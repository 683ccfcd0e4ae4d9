"""Quick checks before long work starts; all problems are reported at once."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.files import storage_errors

_ZIP = b"PK\x03\x04"


def check_all(*checks: Callable[[], object]) -> None:
    """Runs every check, even after one fails.

    Args:
        checks: each raises a :class:`UserError` on a problem.

    Raises:
        UserError: a single problem as it was raised, or several in one line.
    """
    problems: list[UserError] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            if str(error) not in map(str, problems):
                problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UserError(f"{len(problems)} problems: {'; '.join(map(str, problems))}")


def require_file(path: Path, what: str) -> None:
    """Raises a StorageError if a file does not exist.

    Args:
        path: the file.
        what: its expected content, for the message: "trained weights".
    """
    if not path.is_file():
        raise StorageError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: give the file of the {what}")


def require_checkpoint(path: Path, what: str) -> None:
    """Raises a StorageError if a file cannot be a checkpoint: missing, no zip archive, or cut short.

    A checkpoint is a zip archive, whose directory stands at its end: a look at both ends tells, whatever its size and
    without torch. Loading it verifies the content.

    Args:
        path: the file.
        what: its expected content, for the message: "trained weights (net.pt)".
    """
    require_file(path, what)
    with storage_errors(path, "read"), path.open("rb") as file:
        begins_as_zip = file.read(len(_ZIP)) == _ZIP
        is_whole = begins_as_zip and zipfile.is_zipfile(file)
    if not is_whole:
        problem = "is cut short" if begins_as_zip else "is empty" if not path.stat().st_size else "is no checkpoint"
        raise StorageError(f"{path} {problem}: give the file of the {what}")


def require_writable_folder(path: Path) -> None:
    """Raises a StorageError if a folder could not be created or written to; creates nothing."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        if place.is_symlink():
            raise StorageError(f"cannot create folder {path}: {place} is a link that leads nowhere; choose another")
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"cannot create folder {path}: {place} is not a folder; choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write to {path}: folder {place} is not writable; choose another")


def require_writable_file(path: Path) -> None:
    """Raises a StorageError if a file could not be written; creates nothing. Devices and pipes count as files."""
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.exists():
        require_writable_folder(path.parent)
    elif not os.access(path, os.W_OK):
        raise StorageError(f"cannot write {path}: it is not writable; name another file")
