"""The folder that a build of the device programs leaves: what is in it, whose it is, whether a device can use it.

A manifest in the folder names every file with its checksum. A build replaces what an earlier build's manifest names,
unchanged since, and refuses a folder with anything else in it: the folder is one that a user named. A build that was
interrupted while it replaced files leaves a manifest that names old and new ones, so that the next one can finish.
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
# What writing the manifest leaves when it is killed.
_UNFINISHED = re.compile(rf"\.{re.escape(MANIFEST)}\.[0-9a-f]+\.tmp")

# What every Linux system with the GNU C library has; TVM's wheels need the C++ library of the system.
_GNU_LIBRARIES = frozenset(
    (
        *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1", "libstdc++.so.6"),
        "ld-linux-aarch64.so.1",
    )
)

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+-][A-Za-z0-9_.+-]*$")]
_Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a build put into its folder.

    ``identity`` is what it was built from; ``files`` are names and SHA-256 sums; ``earlier`` holds those of
    builds whose files may still lie there, until ``finished``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tvmfbnet device programs"] = "tvmfbnet device programs"
    identity: dict[str, Any]
    files: dict[_Name, _Checksum]
    earlier: dict[_Name, list[_Checksum]] = {}
    finished: bool

    def known(self) -> dict[str, set[str]]:
        """Every name that a build may have written, with the sums that its content may have."""
        found = {name: set(sums) for name, sums in self.earlier.items()}
        for name, expected in self.files.items():
            found.setdefault(name, set()).add(expected)
        return found


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none, or a file of that name that no build wrote."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with storage_errors(path, "read"):
            return Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def is_complete(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds what was built from ``identity``, all of it and unchanged."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest.finished or manifest.identity != json.loads(json.dumps(identity)):
        return False
    paths = {folder / name: wanted for name, wanted in manifest.files.items()}
    return all(path.is_file() and not path.is_symlink() and checksum(path) == sum_ for path, sum_ in paths.items())


def refuse_foreign(folder: Path, ours: bool = False) -> None:
    """Refuses a folder with anything in it that no build put there, or that was changed since.

    Args:
        folder: need not exist yet.
        ours: it is one of the cache: a changed or damaged file there is replaced.

    Raises:
        StorageError: names what was found.
    """
    if folder.is_symlink() and not folder.exists():
        raise StorageError(f"{folder} is a symbolic link that leads nowhere; give another folder")
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file and no folder; give another one")
    if not folder.exists():
        return
    manifest = read_manifest(folder)
    known = manifest.known() if manifest is not None else {}
    parts = {_part(name) for name in known} if manifest is not None and not manifest.finished else set()
    with storage_errors(folder, "read"):
        entries = sorted(folder.iterdir())
    foreign = []
    for path in entries:
        if path.is_file() and not path.is_symlink():
            if (manifest is not None and path.name in {MANIFEST, *parts}) or _UNFINISHED.fullmatch(path.name):
                continue
            if path.name in known and (ours or checksum(path) in known[path.name]):
                continue
        foreign.append(path.name)
    if foreign:
        named = ", ".join(foreign[:_MOST_NAMED]) + (f" and {len(foreign) - _MOST_NAMED} more" * (len(foreign) > 3))
        raise StorageError(
            f"{folder} holds what no earlier build of the device programs put there, or what was changed since "
            f"({named}); nothing was touched: give an empty or new folder"
        )


def _part(name: str) -> str:
    """Where a file is written before it takes its name."""
    return f".{name}.part"


def replace(folder: Path, result: Path, identity: dict[str, Any], ours: bool = False) -> None:
    """Puts what was built into the folder, in place of what an earlier build left there.

    Args:
        folder: of the result; made if need be.
        result: folder that holds the new files and nothing else.
        identity: what they were built from.
        ours: as for :func:`refuse_foreign`.

    Raises:
        StorageError: something else lies in the folder, or it cannot be written.
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
            part.replace(folder / name)  # a program that runs keeps its own file
        for name in sorted(earlier.keys() | manifest.files.keys()):
            (folder / _part(name)).unlink(missing_ok=True)
            if name not in manifest.files:
                (folder / name).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink()
    write_json(folder / MANIFEST, manifest.model_copy(update={"earlier": {}, "finished": True}).model_dump())


def check_programs(folder: Path, system: str) -> None:
    """Checks that a device can load what was built, so that a wrong bundle never reaches one.

    Args:
        folder: of the build's result.
        system: ``android`` or ``aarch64-linux``; of another one nothing is known.

    Raises:
        UserError: another machine's files, a library that neither lies there nor belongs to the system, or segments
            that a phone with pages of 16 KiB cannot load; every problem in one line.
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


def _problems(name: str, elf: Elf, found: frozenset[str], page: int) -> list[str]:
    if (elf.machine, elf.bits) != ("aarch64", 64):
        return [f"{name} is for {elf.machine} ({elf.bits} bits), not aarch64"]
    missing = [library for library in elf.needed if library not in found]
    problems = [f"{name} needs {', '.join(missing)}, which is not beside it"] if missing else []
    if elf.alignments and min(elf.alignments) < page:
        problems.append(
            f"{name} is aligned to {min(elf.alignments)} bytes, and pages of {page} need -Wl,-z,max-page-size={page}"
        )
    return problems
