"""Safe file I/O: writes are atomic, reads are validated, and every failure is one clear line.

Reading checks size, encoding and syntax, and :func:`read_model` also the schema. Fields beyond the schema are errors,
too, so that nothing is dropped silently.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from tvmfbnet.config import problems_of
from tvmfbnet.errors import ConfigError, StorageError, listed
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.strict_yaml import parse_yaml

# Limits for text and tables that people write, and for files of our own (regressors of thousands of trees).
_TEXT_BYTES = 8 * 2**20
_JSON_BYTES = 512 * 2**20
# The forked children of a killed process hold its lock a little longer.
_LOCK_SECONDS = 3.0

T = TypeVar("T")


class Stored(BaseModel):
    """Base schema of files that the program writes and reads back: no unknown fields, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def checksum(path: Path) -> str:
    """A file's SHA-256 in hexadecimal; StorageError when it cannot be read."""
    with storage_errors(path, "read"), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: object) -> str:
    """A content hash of plain data: 16 hex digits, independent of key order."""
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
    """Creates a folder and its parents, and returns it; :class:`StorageError` on failure."""
    with storage_errors(path, "create folder"):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "folder is not writable")
    return path


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Locks ``folder`` for this process, until the block ends or the process dies.

    Args:
        folder: created if missing; the lock is the file ``.lock`` in it, which stays.
        what: uses the folder, for the message: "a run", "a search".

    Raises:
        StorageError: another process holds the lock, or it cannot be created.
    """
    lock = FileLock(make_folder(folder) / ".lock")
    with storage_errors(folder, "lock"):
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise StorageError(
                f"{what} is already active in {folder} in another process; wait for it to end, or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` fill a temporary file beside ``path``, flushes it to disk, then renames it into place.

    Readers see the old content or the new, never a mix, even after a power cut. New files get the mode of the umask,
    existing ones keep theirs. Links are followed; devices and pipes are written in place.
    """
    with storage_errors(path, "write"):
        path = Path(os.path.realpath(path))
        there = path.exists()
        if there and not path.is_file():
            _write_through(path, write)
            return
    make_folder(path.parent)
    with storage_errors(path, "write"):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            if there:
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            temporary.replace(path)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def clear_leftovers(*paths: Path) -> None:
    """Removes temporary files that killed processes left behind (see :func:`write_atomically`).

    Live processes lock their temporary files, which stay.

    Args:
        paths: files that the caller is about to write, in a folder that it has locked (:func:`folder_lock`).
    """
    for path in paths:
        path = Path(os.path.realpath(path))
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with suppress(OSError), leftover.open("rb") as stream:  # locked, gone, or not ours to touch
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()


def _write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Writes to a special file such as /dev/stdout; ``OSError`` for a folder."""
    with scratch_folder() as folder:
        temporary = folder / path.name
        write(temporary)
        with temporary.open("rb") as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically (indented, keys in the given order)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_text(path: Path, limit_bytes: int = _TEXT_BYTES) -> str:
    """Reads UTF-8 text, without its byte order mark; :class:`StorageError` for another encoding or a huge file."""
    with storage_errors(path, "read"), path.open("rb") as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise StorageError(f"{path} is larger than {limit_bytes // 2**20} MiB, too large for its kind")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StorageError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StorageError(
            f"{path} is not UTF-8 text (byte 0x{content[error.start]:02x} in line {line}); save it as UTF-8"
        ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file; :class:`StorageError` names the file when it is missing or malformed.

    NaN, Infinity, duplicate names and deep nesting count as malformed.
    """
    return _parsed(path)[0]


def _parsed(path: Path) -> tuple[Any, str]:
    text = read_text(path, _JSON_BYTES)
    try:
        from_json(text, allow_inf_nan=False)
        return json.loads(text, object_pairs_hook=_unique), text
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return values


def read_model(path: Path, model: type[T]) -> T:
    """Reads a JSON file and validates it against a schema.

    Args:
        path: the file.
        model: a :class:`Stored` (or other pydantic) model, or any type that pydantic supports, such as ``list[Model]``
            or ``dict[str, float]``. Types are strict: text does not pass for a number.

    Raises:
        StorageError: the file is missing, not JSON, or invalid; names the file and every problem.
    """
    _, text = _parsed(path)
    try:
        return TypeAdapter(model).validate_json(text, strict=True)
    except ValidationError as error:
        raise StorageError(f"{path} is damaged or of another version: {listed(problems_of(error))}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping; :class:`ConfigError` says where it is malformed."""
    text = read_text(path)
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(str(path), [f"not valid YAML{line}: {problem}"]) from error
    if not isinstance(value, dict):
        raise ConfigError(str(path), ["the top level must be a mapping of names to values"])
    return value
