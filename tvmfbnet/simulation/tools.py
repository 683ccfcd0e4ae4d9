"""What simulated devices need on this machine: LLVM's disassembler and pipeline simulator, and qemu's user mode."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from tvmfbnet.errors import UserError

# Another version's models give other cycles: the oldest that works comes first, so that machines agree.
_OLDEST, _NEWEST = 19, 30
_EMULATORS = {"aarch64": "qemu-aarch64", "x86_64": "qemu-x86_64"}


@dataclass(frozen=True)
class Llvm:
    """LLVM's tools.

    Args:
        assembler: path of llvm-mc, which disassembles.
        analyser: path of llvm-mca.
        version: of both, such as ``19.1.7``.
    """

    assembler: str
    analyser: str
    version: str


def find_llvm() -> Llvm:
    """LLVM's tools in ``PATH``: version 19 if there, else the next newer one.

    Raises:
        UserError: there are none, or only older ones.
    """
    return _find_llvm(tuple(shutil.which(name) for name in ("llvm-mc", "llvm-mca")), _versioned())


def missing_tools(triple: str = "aarch64") -> list[str]:
    """One line per tool that a simulated device needs and this machine lacks; says what to install."""
    missing = []
    try:
        find_llvm()
    except UserError as error:
        missing.append(str(error))
    emulator = _EMULATORS[triple]
    if shutil.which(emulator) is None:
        missing.append(f"{emulator} was not found; it runs the device (Debian: apt-get install qemu-user)")
    return missing


def _versioned() -> tuple[tuple[str, str], ...]:
    """Paths of llvm-mc-N and llvm-mca-N, the oldest first."""
    pairs = []
    for major in range(_OLDEST, _NEWEST + 1):
        assembler, analyser = shutil.which(f"llvm-mc-{major}"), shutil.which(f"llvm-mca-{major}")
        if assembler and analyser:
            pairs.append((assembler, analyser))
    return tuple(pairs)


@cache
def _find_llvm(plain: tuple[str | None, ...], versioned: tuple[tuple[str, str], ...]) -> Llvm:
    old = ""
    pairs = [*versioned, *([(plain[0], plain[1])] if plain[0] and plain[1] else [])]
    for assembler, analyser in pairs:
        versions = {_version(assembler), _version(analyser)}
        version = versions.pop()
        if versions or version is None:
            continue
        if int(version.split(".")[0]) >= _OLDEST:
            return Llvm(assembler, analyser, version)
        old = f"; {analyser} is of version {version}, too old"
    raise UserError(
        f"llvm-mc and llvm-mca of LLVM {_OLDEST} or newer were not found{old}; they simulate the pipeline "
        f"(Debian 12: apt-get install llvm-{_OLDEST})"
    )


def _version(program: str) -> str | None:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"LLVM version (\d+\.\d+(?:\.\d+)?)", said.stdout)
    return version[1] if version else None
