"""Steps of which nobody knows how long they take: each is named as it begins, and gives a sign of life until it ends.

On a terminal that is a line that counts seconds; elsewhere a plain line now and then. Always on stderr.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.errors import LiveError
from rich.markup import escape
from rich.status import Status

from tvmfbnet.progress import console, say

# Seconds between two signs of life.
HEARTBEAT = 4.0


class Step:
    """One step that is under way. Made by :func:`step`.

    Attributes:
        what: its name.
        look: says how far it is; asked whenever that is shown.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.look: Callable[[], str] = lambda: ""
        self._started = time.monotonic()

    def note(self, text: str) -> None:
        """Sets what is shown beside the name until the next one."""
        self.look = lambda: text

    def line(self) -> str:
        """The step as it is now, in one line."""
        note = self.look()
        return f"{self.what}{f', {note}' if note else ''} ({time.monotonic() - self._started:.0f} s)"


@contextmanager
def step(what: str) -> Iterator[Step]:
    """Names a step as it begins, and shows until the block's end that it is under way."""
    now = Step(what)
    say(f"{what} ...")
    over = threading.Event()
    status = _status(now)
    watch = threading.Thread(target=_show, args=(now, over, status), daemon=True)
    watch.start()
    try:
        yield now
    finally:
        over.set()
        watch.join()
        if status is not None:
            status.stop()


def _status(now: Step) -> Status | None:
    """The live line; None where there is no terminal, or another live display has it."""
    if not console.is_terminal:
        return None
    status = Status(escape(now.what), console=console)
    try:
        status.start()
    except LiveError:
        return None
    return status


def _show(now: Step, over: threading.Event, status: Status | None) -> None:
    while not over.wait(HEARTBEAT if status is None else 1.0):
        if status is None:
            say(now.line())
        else:
            status.update(escape(now.line()))
