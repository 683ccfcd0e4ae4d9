"""Loads TVM's runtime without its compiler: for trackers, device servers and workers, which compile nothing.

The compiler's library has 260 MB, and two thirds of TVM's Python modules are for compiling. A process without them
takes half the CPU time to start, and less than half the memory.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tvmfbnet.rpc.without_torch import leave_out_torch

# What TVM reads once, as it is imported.
_SWITCH = "TVM_USE_RUNTIME_LIB"


def load_runtime() -> None:
    """Imports TVM without its compiler, torch and the bindings of CUDA, in a process that has not imported it yet.

    Processes that this one starts are free to load the compiler.
    """
    leave_out_torch()
    # TVM imports them where they are installed, to know a type of streams that nobody passes here: 0.1 s.
    sys.modules["cuda.bindings"] = None  # type: ignore[assignment] # makes its import fail
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    collects = gc.isenabled()
    gc.disable()  # modules are no garbage, and are looked through many times as they grow
    try:
        with _missing_types_unasked():
            importlib.import_module("tvm")
    finally:
        if collects:
            gc.enable()
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before


@contextmanager
def _missing_types_unasked() -> Iterator[None]:
    """TVM asks for each type that Python has a class for; here those of the compiler are not asked for.

    They are missing, which is an error in C++, and the backtrace of a process's first error takes 0.3 s.
    """
    core: Any = importlib.import_module("tvm_ffi.core")
    registry: Any = importlib.import_module("tvm_ffi.registry")
    ask = core._object_type_key_to_index
    # Listed at the first question, when TVM has loaded its library.
    keys = cache(lambda: frozenset(map(str, registry.get_registered_type_keys())))

    def ask_if_there(key: str) -> int | None:
        index: int | None = ask(key) if key in keys() else None
        return index

    core._object_type_key_to_index = ask_if_there
    try:
        yield
    finally:
        core._object_type_key_to_index = ask


def load_device_runtimes() -> None:
    """Loads what a device server runs kernels with besides TVM's runtime: random inputs, GPUs where there are drivers.

    TVM by itself loads these libraries together with its compiler only.
    """
    base = importlib.import_module("tvm.base")
    folder = Path(base._LOADED_LIBS["tvm_runtime"]._name).resolve().parent
    for library in sorted(folder.glob("*tvm_runtime_*")):
        with suppress(OSError):  # no driver
            ctypes.CDLL(str(library), ctypes.RTLD_LOCAL)
