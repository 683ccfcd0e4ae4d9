"""Ties a child process to its parent from the first line on, so that nothing outlives its command.

The parent holds one end of a pipe and never writes to it; when the parent dies, however it dies, the pipe closes. On
Linux the kernel then kills the child (and its process group), so neither a slow import nor a library that holds the GIL
can delay it. Only the standard library is imported here, because this runs before anything else.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from contextlib import suppress

# How often a child checks its parent: another process may hold the parent's end of the pipe.
_LOOK_SECONDS = 0.5


def hold(pipe: int, parent: int, group: bool) -> None:
    """Kills this process when ``parent`` dies, or now if it is dead.

    Args:
        pipe: read end of a pipe that never carries data.
        parent: id of the parent process.
        group: whether to kill the process group, too; this process must lead it.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp() if group else os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if is_gone(pipe, parent):  # it died before the kernel was watching
        end(group)
    threading.Thread(target=_watch, args=(pipe, parent, group), daemon=True).start()


def is_gone(pipe: int, parent: int) -> bool:
    """Whether the parent is dead, or its end of the pipe closed."""
    poll = select.poll()
    poll.register(pipe, 0)  # POLLHUP is always reported
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
    """Kills this process soon after ``parent`` dies: for workers of TVM's pools, which have no such pipe."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    end(group=False)
