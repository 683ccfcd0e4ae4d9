"""Links built code into a library file, with the target's toolchain."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.android_libraries import android_libraries
from tvmfbnet.targets.definition import Target
from tvmfbnet.targets.toolchain import find_compiler


def save_library(executable: Any, path: Path, target: Target) -> Path:
    """Exports a built module or executable as a shared library for the target.

    Raises:
        UserError: the target's toolchain is not installed; says what to install.
    """
    from tvm.support import cc

    link = partial(cc.create_shared)
    if target.triple:
        # A library without kernels names no machine, and TVM would use this machine's for its constants.
        link.get_target_triple = lambda: target.triple  # type: ignore[attr-defined]
    with scratch_folder() as workspace:
        executable.export_library(str(path), fcompile=link, workspace_dir=str(workspace), **linker(target))
    return path


def linker(target: Target, trial: bool = False) -> dict[str, Any]:
    """The arguments that make TVM's linker call use the target's toolchain.

    Args:
        target: whose toolchain.
        trial: for a kernel that is timed once and discarded: no start files or libraries, which saves 15 ms.
    """
    # Kernels are C: with `zig c++` the first link for each system would also build the C++ library.
    compiler = find_compiler(target, "c" if target.toolchain.kind == "zig" else "c++")
    options = [*compiler.options, *target.toolchain.options]
    if "android" in target.triple:
        options += android_libraries(compiler)
    if trial and target.toolchain.kind == "cxx":
        options.append("-nostdlib")
    return {"cc": compiler.command, "options": options} if options else {"cc": compiler.command}
