"""Programs that must be installed on this machine, what is built with them, and the cache of the results.

Toolchains, the doctor and the simulator all use this module, so that a missing program is said in the same words
everywhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.files import make_folder

# Debian packages of commands.
_PACKAGES = {
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "aarch64-linux-gnu-gcc": "g++-aarch64-linux-gnu",
    "c++": "g++",
    "g++": "g++",
    "cmake": "cmake",
    "ninja": "ninja-build",
    "make": "make",
    "qemu-aarch64": "qemu-user",
    "llvm-mc-19": "llvm-19",
    "llvm-mca-19": "llvm-19",
    "ssh": "openssh-client",
    "adb": "adb",
}


def need_program(name: str, why: str) -> str:
    """The full path of a program; if it is not on PATH, a UserError that says what to install."""
    path = shutil.which(name)
    if path is None:
        package = _PACKAGES.get(Path(name).name)
        install = f"install it (Debian: apt-get install {package})" if package else "install it or correct the path"
        raise UserError(f"{name}, which {why}, was not found; {install} and try again")
    return path


def cache_folder() -> Path:
    """The cache of built programs and unpacked wheels: ``$XDG_CACHE_HOME/tvmfbnet`` or ``~/.cache/tvmfbnet``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return make_folder((Path(root) if root else Path.home() / ".cache") / "tvmfbnet")


def source_folder() -> Path:
    """Folder of CMakeLists.txt and device/: in the installed package, or the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "device_sources"
    return inside if inside.is_dir() else package.parent


def failed_build(what: str, said: Iterable[str]) -> UserError:
    """The error of a build that failed, in one line: the first errors among the lines that the builder printed."""
    lines = [line.strip() for line in said if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
    return UserError(f"building {what} failed: {' | '.join(errors[:3])}")
