"""Loads TVM's runtime without its compiler: for trackers, device servers and workers, which compile nothing.

The compiler's library has 260 MB, and two thirds of TVM's Python modules are for compiling. A process without them
takes half the CPU time to start, and less than half the memory.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from contextlib import suppress
from pathlib import Path

from tvmfbnet.rpc.without_torch import leave_out_torch

# What TVM reads once, as it is imported.
_SWITCH = "TVM_USE_RUNTIME_LIB"


def load_runtime() -> None:
    """Imports TVM without its compiler and without torch, in a process that has not imported it yet.

    Processes that this one starts are free to load the compiler.
    """
    leave_out_torch()
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        importlib.import_module("tvm")
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before


def load_device_runtimes() -> None:
    """Loads what a device server runs kernels with besides TVM's runtime: random inputs, GPUs where there are drivers.

    TVM by itself loads these libraries together with its compiler only.
    """
    base = importlib.import_module("tvm.base")
    folder = Path(base._LOADED_LIBS["tvm_runtime"]._name).resolve().parent
    for library in sorted(folder.glob("*tvm_runtime_*")):
        with suppress(OSError):  # no driver
            ctypes.CDLL(str(library), ctypes.RTLD_LOCAL)
