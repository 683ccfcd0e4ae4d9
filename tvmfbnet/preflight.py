"""Checks that take a moment, made before anything that takes long is begun; all that is wrong is told at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tvmfbnet.errors import StorageError, UserError


def check_all(*checks: Callable[[], object]) -> None:
    """Makes every check, also when an earlier one fails.

    Args:
        checks: each raises a :class:`UserError` where something is wrong.

    Raises:
        UserError: the one problem as it was raised, or several in one line.
    """
    found: list[UserError] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            if str(error) not in map(str, found):
                found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise UserError(f"{len(found)} problems: {'; '.join(map(str, found))}")


def require_file(path: Path, what: str) -> None:
    """StorageError where there is no such file.

    Args:
        path: the file.
        what: what it is to hold, for the message: "trained weights".
    """
    if not path.is_file():
        raise StorageError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: give the file of the {what}")


def require_writable_folder(path: Path) -> None:
    """StorageError where a folder could not be made or written to; makes nothing."""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        if place.is_symlink():
            raise StorageError(f"cannot create folder {path}: {place} is a link that leads nowhere; choose another")
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"cannot create folder {path}: {place} is no folder; choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write to {path}: folder {place} is not writable; choose another")


def require_writable_file(path: Path) -> None:
    """StorageError where a file could not be written; makes nothing. Devices and pipes are files, too."""
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.exists():
        require_writable_folder(path.parent)
    elif not os.access(path, os.W_OK):
        raise StorageError(f"cannot write {path}: it is not writable; name another file")
