"""Binds a child process to the one that started it, from its first line on: nothing outlives its command.

The parent holds one end of a pipe and never writes; when it dies, however it dies, the pipe closes. On Linux the kernel
itself then kills the child (and the group that it leads), so neither a slow import nor a library that holds Python's
lock can put that off. Only the standard library is imported here, for this runs before anything else.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from contextlib import suppress

# How often a process looks whose child it is, for another process may hold the parent's end of the pipe.
_LOOK_SECONDS = 0.5


def hold(pipe: int, parent: int, group: bool) -> None:
    """Ends this process, now or later, when ``parent`` is gone.

    Args:
        pipe: the end of a pipe on which nothing is ever sent.
        parent: process id of whoever started this process.
        group: whether what this process started ends with it; it must lead a process group then.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp() if group else os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if is_gone(pipe, parent):  # before the kernel was told to watch
        end(group)
    threading.Thread(target=_watch, args=(pipe, parent, group), daemon=True).start()


def is_gone(pipe: int, parent: int) -> bool:
    """Whether the parent is dead, or its end of the pipe closed."""
    poll = select.poll()
    poll.register(pipe, 0)  # an end is reported unasked
    return os.getppid() != parent or bool(poll.poll(0))


def end(group: bool) -> None:
    """Kills this process, and its group."""
    if group:
        with suppress(ProcessLookupError):
            os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(pipe: int, parent: int, group: bool) -> None:
    while not is_gone(pipe, parent):
        time.sleep(_LOOK_SECONDS)
    end(group)


def follow(parent: int) -> None:
    """Ends this process soon after ``parent`` is gone: for workers of a pool of TVM's, which have no such pipe."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    end(group=False)
