"""Links built code into a library file, with the target's toolchain."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.android_libraries import android_libraries
from tvmfbnet.targets.definition import Target
from tvmfbnet.targets.toolchain import find_compiler

# For a compiler to name its linker.
_ASKED_SECONDS = 30


def save_library(executable: Any, path: Path, target: Target) -> Path:
    """Exports a built module or executable as a shared library for the target.

    Raises:
        UserError: the target's toolchain is not installed; says what to install.
    """
    from tvm.support import cc

    create = partial(cc.create_shared)
    if target.triple:
        # A library without kernels names no machine, and TVM would use this machine's for its constants.
        create.get_target_triple = lambda: target.triple  # type: ignore[attr-defined]
    module = getattr(executable, "mod", executable)
    modules = module._collect_dso_modules()
    with scratch_folder() as workspace:
        if len(modules) > 1 and all(each.kind == "llvm" for each in modules):
            create(str(path), _objects(module, modules, workspace), **linker(target))
        else:
            module.export_library(str(path), fcompile=create, workspace_dir=str(workspace), **linker(target))
    return path


def _objects(module: Any, modules: Sequence[Any], workspace: Path) -> list[str]:
    """The object files of a library: those of its modules of LLVM, emitted at the same time, and of all else.

    As TVM's ``export_library``, which emits one after the other.
    """
    from tvm.runtime import _ffi_api

    files = [str(workspace / f"lib{number}.o") for number in range(len(modules))]
    with ThreadPoolExecutor(len(modules)) as threads:  # LLVM works without Python's lock
        list(threads.map(lambda each, file: each.write_to_file(file), modules, files))
    constants = _ffi_api.ModulePackImportsToLLVM(module, False, modules[-1].get_function("_get_target_string")(), "")
    constants.write_to_file(str(workspace / "devc.o"))
    return [*files, str(workspace / "devc.o")]


def linker(target: Target, trial: bool = False) -> dict[str, Any]:
    """The arguments that make TVM's linker call, or :func:`link`, use the target's toolchain.

    Args:
        target: whose toolchain.
        trial: for a kernel that is timed once and discarded: no start files or libraries, which saves 15 ms, and no
            compiler driver where the toolchain's linker alone does the same; for :func:`link` only.
    """
    # Kernels are C: with `zig c++` the first link for each system would also build the C++ library.
    compiler = find_compiler(target, "c" if target.toolchain.kind == "zig" else "c++")
    options = [*compiler.options, *target.toolchain.options]
    if trial and not options and (alone := _linker_of(compiler.command, target)) is not None:
        return {"cc": alone, "options": ["--eh-frame-hdr"], "alone": True}
    if "android" in target.triple:
        options += android_libraries(compiler)
    if trial and target.toolchain.kind == "cxx":
        options.append("-nostdlib")
    return {"cc": compiler.command, "options": options} if options else {"cc": compiler.command}


def _linker_of(compiler: str, target: Target) -> str | None:
    """The linker that a compiler of ELF libraries calls; None where kernels are not linked by it alone."""
    is_elf = target.system == "aarch64-linux" or (target.system == "host" and sys.platform.startswith("linux"))
    if not is_elf or target.toolchain.kind != "cxx" or target.tvm["kind"] == "c":
        return None
    asked = subprocess.run([compiler, "-print-prog-name=ld"], capture_output=True, text=True, timeout=_ASKED_SECONDS)
    name = asked.stdout.strip()  # as the compiler calls it: builders on other machines may keep it elsewhere
    return name if asked.returncode == 0 and shutil.which(name) else None


def link(output: str, objects: Sequence[str], cc: str, options: Sequence[str] = (), alone: bool = False) -> None:
    """Links objects into a shared library, as TVM's linker call does.

    Args:
        output: the library.
        objects: to link.
        cc: a compiler driver, or a linker.
        options: of that program.
        alone: whether it is a linker.

    Raises:
        RuntimeError: it failed; says why.
    """
    from tvm.support import cc as compilers

    if not alone:
        compilers.create_shared(output, list(objects), list(options), cc)
        return
    done = subprocess.run([cc, "-shared", "-o", output, *options, *objects], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{cc} failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
