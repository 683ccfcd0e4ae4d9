"""Loads TVM's tensor intrinsics, which MetaSchedule and some GPU schedules need, in seconds instead of minutes.

And has TVM parse functions of ours as quickly.
"""

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

    Args:
        of_gpus: whether those of GPUs are needed too; without them it takes 0.3 s.
    """
    with cheap_stacks():
        if not of_gpus:
            if _PACKAGE not in sys.modules:
                with _left_out([f"{_PACKAGE}.{name}" for name in _OF_GPUS]):
                    importlib.import_module(_PACKAGE)
            return
        importlib.import_module(_PACKAGE)
        for name in _OF_GPUS:  # an earlier call for a CPU may have left them out
            importlib.import_module(f"{_PACKAGE}.{name}")


@contextmanager
def cheap_stacks() -> Iterator[None]:
    """Within it ``T.prim_func`` takes milliseconds, where it takes 0.3 s with many loaded modules.

    It calls ``inspect.stack``, which looks through the source of every loaded module, to tell functions from methods of
    a class: an empty stack is one of a function. It also finds there what annotations name, so these name no variable.
    """
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
