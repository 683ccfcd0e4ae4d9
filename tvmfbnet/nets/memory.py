"""Keeping the memory that a training step frees for the next step.

The C library returns large blocks to the system as soon as they are freed. A supernet's step takes and frees the same
gigabytes each time, and each time the system would have to clear every page of them.
"""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, until it ends; False where the C library is not glibc, and nothing is done.

    The process's resident memory then stays at its peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))
