"""Keeps what a native library prints off this process's stdout, which is for results (JSON with ``--json``)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_output_discarded() -> Iterator[None]:
    """What C code prints to stdout in the block goes nowhere; Python must print nothing there meanwhile.

    HiGHS leaves lines of its own debugging in some builds, whatever its options say.
    """
    library = ctypes.CDLL(None)
    library.fflush(None)
    try:
        kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no stdout
        yield
        return
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
