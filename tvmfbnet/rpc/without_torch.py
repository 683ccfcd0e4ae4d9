"""Loading TVM without torch, which it loads where it finds it: that takes four times as long as TVM itself."""

from __future__ import annotations

import importlib
import sys


def leave_out_torch() -> None:
    """For a process that never needs torch; before TVM is imported there."""
    sys.modules["torch"] = None  # type: ignore[assignment] # an import of it fails, which TVM takes for not installed


def load_tvm_without_torch() -> None:
    """Imports TVM, if that was not done, and leaves it to others to import torch when they need it."""
    if "torch" in sys.modules or "tvm" in sys.modules:
        return
    leave_out_torch()
    try:
        importlib.import_module("tvm")
    finally:
        del sys.modules["torch"]
