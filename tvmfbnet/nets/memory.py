"""What becomes of the memory that a training step frees: kept for the next step, or given back at once.

By itself the C library does something between the two: it returns large blocks to the system as soon as they are freed,
so that a supernet's step waits while the system clears the same gigabytes again and again; and it keeps smaller ones,
in a heap with holes that takes up to twice the memory in use.
"""

from __future__ import annotations

import ctypes
import os
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_LARGE = 8 << 20


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, until it ends; False where the C library is not glibc, and nothing is done.

    The process's resident memory then stays at its peak.
    """
    return _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> bool:
    """Lets this process give back every block of 8 MB or more at once: far less memory, at some cost in time.

    Called before torch's first large tensor it also has torch ask for huge pages, which are cleared in fewer steps.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    return _set(_M_MMAP_THRESHOLD, _LARGE) and _set(_M_TRIM_THRESHOLD, -1)


def _set(parameter: int, value: int) -> bool:
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).mallopt(parameter, value))
