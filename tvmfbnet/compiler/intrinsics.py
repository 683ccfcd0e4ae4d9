"""Loads TVM's tensor intrinsics, which MetaSchedule and some GPU schedules need, in seconds instead of minutes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_PACKAGE = "tvm.s_tir.tensor_intrin"
# Their registration takes seconds, and no CPU schedule uses them.
_OF_GPUS = ("cuda", "rocm")


def load_tensor_intrinsics(of_gpus: bool = True) -> None:
    """Imports TVM's tensor intrinsics in 2 s instead of 11 to 50 s, or minutes with many loaded modules.

    Their registration calls ``inspect.stack``, which reads the source of every loaded module; it is only used for
    error messages there, so an empty stack suffices during the import.

    Args:
        of_gpus: whether those of GPUs are needed too; without them it takes 0.3 s.
    """
    with _cheap_stacks():
        if not of_gpus:
            if _PACKAGE not in sys.modules:
                with _left_out([f"{_PACKAGE}.{name}" for name in _OF_GPUS]):
                    importlib.import_module(_PACKAGE)
            return
        importlib.import_module(_PACKAGE)
        for name in _OF_GPUS:  # an earlier call for a CPU may have left them out
            importlib.import_module(f"{_PACKAGE}.{name}")


@contextmanager
def _cheap_stacks() -> Iterator[None]:
    stack = inspect.stack
    inspect.stack = lambda context=1: []
    try:
        yield
    finally:
        inspect.stack = stack


@contextmanager
def _left_out(names: list[str]) -> Iterator[None]:
    """Imports of these modules give empty ones meanwhile; a later import loads the real ones."""
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update({name: ModuleType(name) for name in missing})
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)
