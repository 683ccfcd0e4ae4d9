"""Progress for long work: a live line on a terminal, sparse plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)

# Of several processes that torchrun started, the first one speaks.
_SPEAKS = os.environ.get("RANK", "0") == "0"

# Off a terminal a line is printed at most this often (seconds), so that logs stay readable.
PLAIN_INTERVAL = 20.0
# The first one of a piece of work comes sooner: so long at most nobody knows whether anything happens.
FIRST_INTERVAL = 4.0


class Reporter:
    """Counts finished steps of one piece of work and shows them. Made by :func:`progress`."""

    def __init__(self, what: str, total: int, live: Progress | None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._live = live
        self._task = live.add_task(what, total=total, note="") if live is not None else None
        self._started = time.monotonic()
        self._printed = self._started - PLAIN_INTERVAL + FIRST_INTERVAL

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Marks ``steps`` as finished; ``note`` says the best or newest result."""
        self.update(self.done + steps, note)

    def update(self, done: int, note: str = "") -> None:
        """Sets how many steps are finished."""
        self.done = done
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, note=note)
        elif _SPEAKS and (time.monotonic() - self._printed >= PLAIN_INTERVAL or done == self.total):
            self._printed = time.monotonic()
            seconds = self._printed - self._started
            print(f"{self.what}: {done}/{self.total} ({seconds:.0f} s) {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Reporter]:
    """Shows ``what`` with done/total, elapsed and remaining time while the block runs."""
    if not (console.is_terminal and _SPEAKS):
        reporter = Reporter(what, total, None)
        reporter.done = done
        yield reporter
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as live:
        reporter = Reporter(what, total, live)
        reporter.update(done)
        yield reporter


def say(message: str) -> None:
    """Prints one line for the person who watches, on stderr (stdout belongs to results and ``--json``)."""
    if _SPEAKS:
        console.print(message, markup=False, soft_wrap=True)


def resumed(what: str, out: object, done: int, total: int) -> str:
    """What is said of work of which ``done`` of ``total`` steps were done before: where it resumes, if anywhere."""
    if done >= total:
        return f"{what}: all {total} steps in {out} were done before"
    return f"{what}: resuming {out} at step {done + 1} of {total}"
