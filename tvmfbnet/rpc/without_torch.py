"""Loads TVM without torch, which TVM imports if installed and which takes four times as long as TVM itself."""

from __future__ import annotations

import importlib
import sys


def leave_out_torch() -> None:
    """Blocks torch in a process that never needs it; call before importing TVM."""
    sys.modules["torch"] = None  # type: ignore[assignment] # makes its import fail, so TVM sees it as missing


def load_tvm_without_torch() -> None:
    """Imports TVM, if needed, without torch; later imports of torch work as usual."""
    if "torch" in sys.modules or "tvm" in sys.modules:
        return
    leave_out_torch()
    try:
        importlib.import_module("tvm")
    finally:
        del sys.modules["torch"]
