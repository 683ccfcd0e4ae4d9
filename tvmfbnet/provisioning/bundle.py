"""The output folder of a device program build: its contents, ownership, and compatibility with a device.

A manifest in the folder lists every file with its checksum. A build replaces only unchanged files of an earlier build's
manifest, and refuses a folder that contains anything else, because the user may have named it. A build that is
interrupted while replacing files leaves a manifest with old and new files, so that the next build can finish.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.files import checksum, make_folder, storage_errors, write_json
from tvmfbnet.provisioning.elf import Elf, is_elf, read_elf
from tvmfbnet.targets.android import PAGE_BYTES, SYSTEM_LIBRARIES

MANIFEST = "programs.json"
_MOST_NAMED = 3
# Temporary file left behind if writing the manifest is killed.
_UNFINISHED = re.compile(rf"\.{re.escape(MANIFEST)}\.[0-9a-f]+\.tmp")

# Present on every Linux system with glibc; TVM's wheels need the system's C++ library.
_GNU_LIBRARIES = frozenset(
    (
        *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"),
        "ld-linux-aarch64.so.1",
    )
)

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+-][A-Za-z0-9_.+-]*$")]
_Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """The files that a build put into its folder.

    ``identity`` describes the inputs of the build; ``files`` maps names to SHA-256 sums; ``earlier`` lists those of
    previous builds whose files may remain until ``finished``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tvmfbnet device programs"] = "tvmfbnet device programs"
    identity: dict[str, Any]
    files: dict[_Name, _Checksum]
    earlier: dict[_Name, list[_Checksum]] = {}
    finished: bool

    def known(self) -> dict[str, set[str]]:
        """Every file name that a build may have written, with its possible checksums."""
        checksums = {name: set(sums) for name, sums in self.earlier.items()}
        for name, expected in self.files.items():
            checksums.setdefault(name, set()).add(expected)
        return checksums


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it is missing or was not written by a build."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with storage_errors(path, "read"):
            return Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def is_complete(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds a complete, unchanged build of ``identity``."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest.finished or manifest.identity != json.loads(json.dumps(identity)):
        return False
    paths = {folder / name: wanted for name, wanted in manifest.files.items()}
    return all(path.is_file() and not path.is_symlink() and checksum(path) == sum_ for path, sum_ in paths.items())


def refuse_foreign(folder: Path, ours: bool = False) -> None:
    """Refuses a folder with files that no build put there, or that were changed since.

    Args:
        folder: need not exist yet.
        ours: whether it is in the cache, where changed or damaged files may be replaced.

    Raises:
        StorageError: names the foreign files.
    """
    if folder.is_symlink() and not folder.exists():
        raise StorageError(f"{folder} is a symbolic link that leads nowhere; give another folder")
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, not a folder; give another one")
    if not folder.exists():
        return
    manifest = read_manifest(folder)
    checksums = manifest.known() if manifest is not None else {}
    parts = {_part(name) for name in checksums} if manifest is not None and not manifest.finished else set()
    with storage_errors(folder, "read"):
        entries = sorted(folder.iterdir())
    foreign = []
    for path in entries:
        if path.is_file() and not path.is_symlink():
            if (manifest is not None and path.name in {MANIFEST, *parts}) or _UNFINISHED.fullmatch(path.name):
                continue
            if path.name in checksums and (ours or checksum(path) in checksums[path.name]):
                continue
        foreign.append(path.name)
    if foreign:
        named = ", ".join(foreign[:_MOST_NAMED]) + (f" and {len(foreign) - _MOST_NAMED} more" * (len(foreign) > 3))
        raise StorageError(
            f"{folder} holds files that no earlier build of the device programs put there, or that were changed since "
            f"({named}); nothing was touched: give an empty or new folder"
        )


def _part(name: str) -> str:
    """Temporary name of a file while it is written."""
    return f".{name}.part"


def replace(folder: Path, result: Path, identity: dict[str, Any], ours: bool = False) -> None:
    """Moves a build result into the folder, replacing an earlier build.

    Args:
        folder: of the result; created if missing.
        result: folder with exactly the new files.
        identity: describes the inputs of the build.
        ours: as for :func:`refuse_foreign`.

    Raises:
        StorageError: the folder contains other files, or cannot be written.
    """
    refuse_foreign(folder, ours)
    make_folder(folder)
    old = read_manifest(folder)
    earlier = old.known() if old is not None else {}
    manifest = Manifest(
        identity=identity,
        files={path.name: checksum(path) for path in sorted(result.iterdir())},
        earlier={name: sorted(sums) for name, sums in earlier.items()},
        finished=False,
    )
    write_json(folder / MANIFEST, manifest.model_dump())
    with storage_errors(folder, "write"):
        for name in manifest.files:
            part = folder / _part(name)
            part.unlink(missing_ok=True)
            with part.open("xb") as stream:
                stream.write((result / name).read_bytes())
            part.chmod((result / name).stat().st_mode & 0o777)
            part.replace(folder / name)  # running programs keep the old file
        for name in sorted(earlier.keys() | manifest.files.keys()):
            (folder / _part(name)).unlink(missing_ok=True)
            if name not in manifest.files:
                (folder / name).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink()
    write_json(folder / MANIFEST, manifest.model_copy(update={"earlier": {}, "finished": True}).model_dump())


def check_programs(folder: Path, system: str) -> None:
    """Checks that a device can load the build, so that a broken bundle never reaches one.

    Args:
        folder: of the build result.
        system: ``android`` or ``aarch64-linux``; others are not checked.

    Raises:
        UserError: files for another architecture, a library that is neither in the folder nor part of the system, or
            segments that a phone with 16 KiB pages cannot load; every problem in one line.
    """
    if system not in ("android", "aarch64-linux"):
        return
    provided = SYSTEM_LIBRARIES if system == "android" else _GNU_LIBRARIES
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    programs = {path.name: read_elf(path) for path in files if is_elf(path)}
    if not programs:
        raise UserError("the built device programs cannot be used: there are no programs among them")
    problems = []
    for name, elf in programs.items():
        problems += _problems(name, elf, provided | programs.keys(), PAGE_BYTES if system == "android" else 0)
    if problems:
        raise UserError(f"the built device programs cannot be used on the device: {'; '.join(problems)}")


def _problems(name: str, elf: Elf, available: frozenset[str], page: int) -> list[str]:
    if (elf.machine, elf.bits) != ("aarch64", 64):
        return [f"{name} is for {elf.machine} ({elf.bits} bits), not aarch64"]
    missing = [library for library in elf.needed if library not in available]
    problems = [f"{name} needs {', '.join(missing)}, which is not beside it"] if missing else []
    if elf.alignments and min(elf.alignments) < page:
        problems.append(
            f"{name} is aligned to {min(elf.alignments)} bytes, and pages of {page} need -Wl,-z,max-page-size={page}"
        )
    return problems
