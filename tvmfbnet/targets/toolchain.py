"""Finds the compilers of a target, and says exactly what to install if one is missing.

Linking, the device program build and the doctor all use this module, so that they cannot disagree.
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
    "ssh": "openssh-client",
    "adb": "adb",
}


@dataclass(frozen=True)
class Compiler:
    """A compiler driver: the command, and the options that make it compile for the target."""

    command: str
    options: tuple[str, ...] = ()


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


def find_compiler(target: Target, language: Literal["c", "c++"] = "c++") -> Compiler:
    """The compiler of a target's toolchain.

    Raises:
        UserError: it is not installed; says what to install.
    """
    chain = target.toolchain
    # Kernel libraries must also load on phones with 16 KiB pages.
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
    """A one-line script that wraps zig as a single command: TVM and CMake do not accept ``zig c++``."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise UserError("this target links with zig, which was not found; pip install ziglang and try again")
    zig = Path(spec.origin).parent / "zig"
    script = cache_folder() / f"zig-{subcommand}"
    text = f'#!/bin/sh\nexec "{zig}" {subcommand} "$@"\n'
    if not script.is_file() or script.read_text(encoding="utf-8") != text:
        write_text(script, text)
    with storage_errors(script, "make executable"):
        script.chmod(0o755)
    return str(script)
