"""Memory in training: freed memory is kept for the next step, and running out of it ends with advice.

By default the C library returns large blocks to the system as soon as they are freed, and a supernet's step waits
while the system zeroes gigabytes of fresh pages.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tvmfbnet.errors import OutOfMemoryError

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

# What torch's allocators, CUDA's libraries, oneDNN and the C++ library say when they get no memory.
_SIGNS = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|not enough memory|bad_alloc|alloc_failed|(?:failed|unable) to allocate"
    r"|could not create a memory|can't start new thread",
    re.IGNORECASE,
)
_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory; returns False and does nothing if the C library is not glibc.

    Commands do this before they search or train; a library call never does. Call it where the process is your own:
    steps of large supernets become faster, and the process's resident memory stays at its peak.
    """
    return _set(_M_MMAP_MAX, 0) and _set(_M_TRIM_THRESHOLD, -1)


def _set(parameter: int, value: int) -> bool:
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).mallopt(parameter, value))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, is an allocation that failed: Python's, torch's, CUDA's or C++'s."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and _SIGNS.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


@contextmanager
def memory_advice(doing: str, advice: str) -> Iterator[None]:
    """Turns failed allocations in its block into an :class:`OutOfMemoryError` that names settings that need less.

    Args:
        doing: what ran out of memory: "the search".
        advice: what to do: "use a smaller batch_size".
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{doing} ran out of memory{_asked(error)}: {advice}") from error


def _asked(error: Exception) -> str:
    asked = _ASKED.search(str(error))
    if asked is None:
        return ""
    if asked[2].lower() != "bytes":
        return f" (asked for {asked[1]} {asked[2]} more)"
    return f" (asked for {float(asked[1]) / 2**30:.2g} GiB more)"
