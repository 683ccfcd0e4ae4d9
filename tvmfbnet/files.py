"""Reading and writing files so that nothing half-written is ever left behind and every failure is one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tvmfbnet.errors import ConfigError, StorageError


def digest(value: object) -> str:
    """A short name for plain data by its content: 16 hex digits, the same whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turns an ``OSError`` into a :class:`StorageError` that names the path and what was being done."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {doing} {path}: {error.strerror or error}") from error


def make_folder(path: Path) -> Path:
    """Creates a folder (and its parents) and returns it; :class:`StorageError` where that is impossible."""
    with storage_errors(path, "create folder"):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "folder is not writable")
    return path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` fill a temporary file beside ``path``, flushes it to disk, then renames it into place.

    A reader sees the old content or the new, never a part of either, also after a power cut.
    """
    make_folder(path.parent)
    with storage_errors(path, "write"):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically (indented, sorted as given)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; :class:`StorageError` names the file when it is missing or malformed."""
    with storage_errors(path, "read"):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise StorageError(f"{path} is not valid JSON (line {error.lineno}: {error.msg})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping; :class:`ConfigError` says where it is malformed."""
    with storage_errors(path, "read"):
        text = path.read_text(encoding="utf-8")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(str(path), [f"not valid YAML{line}: {getattr(error, 'problem', None) or error}"]) from error
    if not isinstance(value, dict):
        raise ConfigError(str(path), ["the top level must be a mapping of names to values"])
    return value
