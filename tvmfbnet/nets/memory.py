"""What becomes of the memory that a training step frees: it is kept for the next step.

By itself the C library returns large blocks to the system as soon as they are freed, so that a supernet's step waits
while the system clears the same gigabytes again and again.
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
    return _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, -1)


def _set(parameter: int, value: int) -> bool:
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).mallopt(parameter, value))
