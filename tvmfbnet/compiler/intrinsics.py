"""Loads TVM's tensor intrinsics, which MetaSchedule and some GPU schedules need, in seconds instead of minutes."""

from __future__ import annotations

import inspect


def load_tensor_intrinsics() -> None:
    """Imports TVM's tensor intrinsics in 2 s instead of 11 to 50 s, or minutes with many loaded modules.

    Their registration calls ``inspect.stack``, which reads the source of every loaded module; it is only used for
    error messages there, so an empty stack suffices during the import.
    """
    stack = inspect.stack
    inspect.stack = lambda context=1: []
    try:
        import tvm.s_tir.tensor_intrin  # noqa: F401
    finally:
        inspect.stack = stack
