"""Finding the compilers that a target names, and saying exactly what to install when one is missing.

Linking kernels, building the device programs and the doctor all ask here, so that they cannot disagree.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tvmfbnet.errors import UserError
from tvmfbnet.files import make_folder, storage_errors, write_text
from tvmfbnet.targets.android import PAGE_OPTION
from tvmfbnet.targets.definition import Target

# Debian's package for a compiler command that is not on PATH.
_PACKAGES = {
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "aarch64-linux-gnu-gcc": "g++-aarch64-linux-gnu",
    "c++": "g++",
    "g++": "g++",
    "cmake": "cmake",
    "ninja": "ninja-build",
    "make": "make",
    "qemu-aarch64": "qemu-user",
    "ssh": "openssh-client",
    "adb": "adb",
}


@dataclass(frozen=True)
class Compiler:
    """A compiler driver: the command to start, and the options that make it produce code for the target."""

    command: str
    options: tuple[str, ...] = ()


def need_program(name: str, why: str) -> str:
    """The full path of a program; UserError that says what to install when it is not on PATH."""
    found = shutil.which(name)
    if found is None:
        package = _PACKAGES.get(Path(name).name)
        install = f"install it (Debian: apt-get install {package})" if package else "install it or correct the path"
        raise UserError(f"{name}, which {why}, was not found; {install} and try again")
    return found


def cache_folder() -> Path:
    """Where built programs and unpacked wheels are kept: ``$XDG_CACHE_HOME/tvmfbnet`` or ``~/.cache/tvmfbnet``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return make_folder((Path(root) if root else Path.home() / ".cache") / "tvmfbnet")


def find_compiler(target: Target, language: Literal["c", "c++"] = "c++") -> Compiler:
    """The compiler of a target's toolchain.

    Raises:
        UserError: it is not installed; says what to install.
    """
    chain = target.toolchain
    # A kernel's library must load on phones with pages of 16 KiB as well.
    pages = (PAGE_OPTION,) if "android" in target.triple else ()
    if chain.kind == "zig":
        return Compiler(_zig_wrapper("c++" if language == "c++" else "cc"), ("-target", chain.triple, *pages))
    if chain.kind == "ndk":
        command = os.environ.get("TVM_NDK_CC", "")
        if not command:
            raise UserError(
                f"target {target.name} links with the Android NDK: set TVM_NDK_CC to its clang++ "
                "(NDK/toolchains/llvm/prebuilt/HOST/bin/aarch64-linux-android24-clang++)"
            )
        return Compiler(need_program(command, "TVM_NDK_CC names"), pages)
    command = chain.command
    if language == "c":
        command = command.replace("clang++", "clang").replace("g++", "gcc").replace("c++", "cc")
    need_program(command, f"target {target.name} links with")
    return Compiler(command, pages)


def _zig_wrapper(subcommand: str) -> str:
    """A one-line script that is a compiler in a single word: TVM and CMake do not take ``zig c++``."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise UserError("this target links with zig, which was not found; pip install ziglang and try again")
    zig = Path(found.origin).parent / "zig"
    script = cache_folder() / f"zig-{subcommand}"
    text = f'#!/bin/sh\nexec "{zig}" {subcommand} "$@"\n'
    if not script.is_file() or script.read_text(encoding="utf-8") != text:
        write_text(script, text)
    with storage_errors(script, "make executable"):
        script.chmod(0o755)
    return str(script)
