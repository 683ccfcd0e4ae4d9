"""Lists of cores, such as ``0,4-7``: read, written, and applied to this process."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tvmfbnet.errors import DeviceError

# As many as the kernel's own masks hold.
_MOST = 1024


def parse_cores(text: str) -> frozenset[int]:
    """``0,4-7`` as core numbers.

    Raises:
        ValueError: it is no such list; the message says why.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise ValueError(f"{text[:80]!r} is no list of cores: write numbers and ranges, such as 0,4-7")
        if len(first) > 4 or len(last) > 4 or int(last or first) >= _MOST:
            raise ValueError(f"{text[:80]!r} names cores above {_MOST - 1}, which no machine has")
        if dash and int(last) < int(first):
            raise ValueError(f"cores {part!r} run backwards: write {last}-{first}")
        chosen |= set(range(int(first), int(last or first) + 1))
    return frozenset(chosen)


def format_cores(cores: Iterable[int]) -> str:
    """The reverse: ``{0, 4, 5, 6, 7}`` as ``0,4-7``."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def apply_cores(text: str) -> None:
    """Runs this process and its children on some cores only.

    Raises:
        DeviceError: this machine does not have all of them, or the text is no list of cores.
    """
    try:
        chosen = parse_cores(text)
    except ValueError as error:
        raise DeviceError(str(error)) from error
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot bind a process to cores; leave `cores` out of the target")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, chosen)
        applied = os.sched_getaffinity(0) == chosen  # the kernel drops cores that do not exist without a word
    except OSError:
        applied = False
    if not applied:
        raise DeviceError(
            f"not all of the cores {format_cores(chosen)} can be used here; this process may use {format_cores(before)}"
        )
    os.environ["TVM_BIND_THREADS"] = "0"  # else TVM binds its threads to the fastest cores that it finds
