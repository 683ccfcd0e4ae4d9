"""Linking what was built into a library file, with the toolchain that the target names."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tvmfbnet.devices.target import Target
from tvmfbnet.errors import UserError


def save_library(executable: Any, path: Path, target: Target) -> Path:
    """Exports a built module or executable as a shared library for the target.

    Raises:
        UserError: the target's toolchain is not installed; says what to install.
    """
    from tvm.support import cc

    executable.export_library(str(path), fcompile=cc.create_shared, **linker(target))
    return path


def linker(target: Target) -> dict[str, Any]:
    """The arguments that make TVM's linker call use the target's toolchain."""
    chain = target.toolchain
    options = list(chain.options)
    if chain.kind == "zig":
        return {"cc": _zig(), "options": ["-target", chain.triple, *options]}
    command = os.environ.get("TVM_NDK_CC", "") if chain.kind == "ndk" else chain.command
    if not command or shutil.which(command) is None:
        wanted = "the NDK's clang++: set TVM_NDK_CC to it" if chain.kind == "ndk" else f"{chain.command!r}"
        raise UserError(f"target {target.name} links with {wanted}, which was not found; install it and try again")
    return {"cc": command, "options": options} if options else {"cc": command}


def trial_linker(target: Target) -> dict[str, Any]:
    """As :func:`linker`, for kernels that are timed once and thrown away: no start files, no libraries, 15 ms less."""
    chosen = linker(target)
    if target.toolchain.kind == "cxx":
        chosen["options"] = [*chosen.get("options", []), "-nostdlib"]
    return chosen


def _zig() -> str:
    try:
        import ziglang  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise UserError("this target links with zig: pip install ziglang") from error
    return str(Path(ziglang.__file__).parent / "zig") if sys.platform != "win32" else "zig"
