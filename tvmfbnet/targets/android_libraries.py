"""Empty stand-ins for the libraries that kernels call on Android, so that a kernel library can name them as needed.

Android's loader resolves a library's symbols in the program itself and in what the library names as needed, and nowhere
else: unlike glibc's, it does not look into libraries that the program happens to have loaded. A kernel that calls
``memcpy`` or TVM's functions without naming their libraries does not load on a phone.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.files import make_folder, storage_errors, write_atomically
from tvmfbnet.targets.toolchain import Compiler
from tvmfbnet.tools import cache_folder, need_program

# What compiled kernels may call: errors are raised in TVM's library, memory and mathematics are the C library's.
KERNEL_LIBRARIES = ("libtvm_ffi.so", "libc.so", "libm.so")
_BUILD_SECONDS = 60


def android_libraries(compiler: Compiler) -> tuple[str, ...]:
    """Linker options that make a library need them; builds the stand-ins on first use.

    Raises:
        UserError: the compiler is not installed, or does not build a shared library.
        StorageError: the cache cannot be written.
    """
    command = need_program(compiler.command, "links for Android")
    name = hashlib.sha256("\0".join((os.path.realpath(command), *compiler.options)).encode()).hexdigest()[:12]
    folder = make_folder(cache_folder() / f"android-libraries-{name}")
    paths = [folder / library for library in KERNEL_LIBRARIES]
    for path in paths:
        if not path.is_file():
            with storage_errors(path, "write"):
                write_atomically(path, lambda temporary, path=path: _build(compiler, path.name, temporary))  # type: ignore[misc]
    return ("-Wl,--push-state,--no-as-needed", *map(str, paths), "-Wl,--pop-state")


def _build(compiler: Compiler, name: str, path: Path) -> None:
    command = [compiler.command, *compiler.options, "-shared", "-nostdlib", f"-Wl,-soname,{name}"]
    done = subprocess.run(
        [*command, "-x", "c", os.devnull, "-o", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{compiler.command} cannot link a shared library for Android: {said[-1]}")
