"""Progress and messages of a command, on stderr: a live line on a terminal, plain lines elsewhere.

In a pipe each work prints a line when it starts, and a thread reports the innermost one again whenever nothing was
printed for some seconds. Messages are the log records of the package.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tvmfbnet import process
from tvmfbnet.interrupts import is_stopping
from tvmfbnet.progress import Message, Reporter, observed

console = Console(stderr=True, highlight=False)

# Longest silence off a terminal, seconds.
SILENCE = 4.0

_PREFIXES = {logging.WARNING: "warning: ", logging.ERROR: "warning: "}


@contextmanager
def as_command() -> Iterator[None]:
    """The block behaves as a command: what library calls report is shown, and the process is its own."""
    with process.owned(), shown():
        yield


@contextmanager
def shown() -> Iterator[None]:
    """Shows on stderr what library calls in the block report; does nothing where that is shown already."""
    logger = logging.getLogger("tvmfbnet")
    # Under torchrun only rank 0 prints.
    if os.environ.get("RANK", "0") != "0" or any(isinstance(handler, _Printing) for handler in logger.handlers):
        yield
        return
    terminal = _Terminal()
    handler, level, propagates = _Printing(terminal), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # else a handler that another package gave the root logger prints it again
    try:
        with observed(terminal):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


class _Printing(logging.Handler):
    """Prints log records; a stream that takes none is the command's error, as for all that it prints."""

    def __init__(self, terminal: _Terminal) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record as one message."""
        prefix = getattr(record, "prefix", _PREFIXES.get(record.levelno, ""))
        self._terminal.print(prefix + record.getMessage())


class _Terminal:
    """The observer of a command: live lines on a terminal, plain ones elsewhere."""

    def __init__(self) -> None:
        self._live: dict[int, tuple[Progress, TaskID]] = {}
        self._lines = _Lines()

    def print(self, message: str) -> None:
        """Prints one line for people."""
        if console.is_terminal:
            console.print(message, markup=False, soft_wrap=True)
        else:
            self._lines.print(message)

    def said(self, message: Message) -> None:
        """Printed as a log record already."""

    def started(self, work: Reporter, patience: float) -> None:
        """Draws a live line, or prints a plain one after ``patience`` seconds."""
        if not console.is_terminal:
            self._lines.begin(work, patience)
            return
        live = _live_count() if work.counted else _live_step()
        live.start()
        task = live.add_task(work.what, total=work.total or None, completed=work.done, status=work.status)
        self._live[id(work)] = live, task

    def advanced(self, work: Reporter, complete: bool) -> None:
        """Redraws the live line; off a terminal, the last step gets a line."""
        if id(work) in self._live:
            live, task = self._live[id(work)]
            live.update(task, completed=work.done, total=work.total or None)
        elif complete:
            self._lines.print(work.describe())

    def ended(self, work: Reporter) -> None:
        """Ends the live line."""
        if id(work) in self._live:
            self._live.pop(id(work))[0].stop()
        else:
            self._lines.end(work)


class _Status(ProgressColumn):
    """The status text of the work, requested on every refresh."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["status"]())


def _live_count() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Status(),
        console=console,
    )


def _live_step() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), _Status())
    return Progress(*columns, console=console, transient=True)


class _Lines:
    """Plain lines on stderr: explicit ones, and one on the innermost work after too long a silence.

    A command that was interrupted has said how long it takes to stop; nothing is reported after that.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active: list[tuple[Reporter, float]] = []
        self._printed = 0.0
        self._thread: threading.Thread | None = None

    def print(self, text: str) -> None:
        """Prints a line and restarts the silence timer."""
        with self._changed:
            self._printed = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def begin(self, work: Reporter, patience: float) -> None:
        """Starts reporting some work, for the first time after ``patience`` seconds."""
        with self._changed:
            if not patience:
                self.print(work.describe().replace("(0 s)", "...") if not work.total else work.describe())
            self._active.append((work, work.started + patience))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="progress")
                self._thread.start()
            self._changed.notify()

    def end(self, work: Reporter) -> None:
        """Stops reporting it."""
        with self._changed:
            self._active = [entry for entry in self._active if entry[0] is not work]
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._active and not is_stopping():
                work, first = self._active[-1]
                now = time.monotonic()
                # A young step reports after its patience, however recently another one did.
                due = first if self._printed < work.started < first else max(first, self._printed + SILENCE)
                if now >= due:
                    with suppress(OSError, ValueError):  # code that prints results will report that
                        self.print(work.describe())
                else:
                    self._changed.wait(due - now)
            self._thread = None
