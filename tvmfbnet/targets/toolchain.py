"""Finds the compilers of a target, and says exactly what to install if one is missing.

Linking, the device program build and the doctor all use this module, so that they cannot disagree.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tvmfbnet.errors import UserError
from tvmfbnet.files import storage_errors, write_text
from tvmfbnet.targets.android import PAGE_OPTION
from tvmfbnet.targets.definition import Target
from tvmfbnet.tools import cache_folder, need_program


@dataclass(frozen=True)
class Compiler:
    """A compiler driver: the command, and the options that make it compile for the target."""

    command: str
    options: tuple[str, ...] = ()


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
