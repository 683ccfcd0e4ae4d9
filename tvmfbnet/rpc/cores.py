"""Applying a list of cores, such as ``0,4-7``, to this process."""

from __future__ import annotations

import os

from tvmfbnet.errors import DeviceError
from tvmfbnet.machine import format_cores, parse_cores


def apply_cores(text: str) -> None:
    """Pins this process and its children to a list of cores.

    Raises:
        DeviceError: the machine lacks some of them, or the text is not a list of cores.
    """
    try:
        chosen = set(parse_cores(text))
    except ValueError as error:
        raise DeviceError(f"--cores is {text[:80]!r}: {error}") from error
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot bind a process to cores; leave `cores` out of the target")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, chosen)
        applied = os.sched_getaffinity(0) == chosen  # the kernel silently drops cores that do not exist
    except OSError:
        applied = False
    if not applied:
        raise DeviceError(
            f"not all of the cores {format_cores(tuple(chosen))} can be used here; "
            f"this process may use {format_cores(tuple(before))}"
        )
    os.environ["TVM_BIND_THREADS"] = "0"  # else TVM binds its threads to the fastest cores
