"""Progress of long work: a live line on a terminal, plain lines elsewhere. Always on stderr, never silent for long.

:func:`progress` counts steps; :func:`step` shows the elapsed time of work that cannot be counted. In a pipe each prints
a line when it starts, and a thread reports the innermost one again whenever nothing was printed for some seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, highlight=False)

# Under torchrun only rank 0 prints.
_SPEAKS = os.environ.get("RANK", "0") == "0"

# Longest silence off a terminal, seconds.
SILENCE = 4.0
# Seconds before a step that is usually instant gets a line.
_PATIENCE = 3.0


class Reporter:
    """Counts and shows the finished steps of some work. Made by :func:`progress`; with ``total`` 0 it counts none."""

    def __init__(self, what: str, total: int, live: Progress | None, done: int = 0) -> None:
        self.what, self.total, self.done, self.note = what, total, done, ""
        # Called for the status text on every refresh; ``note`` is shown without it.
        self.look: Callable[[], str] | None = None
        self.started = time.monotonic()
        self._live = live
        self._task = None
        if live is not None:
            self._task = live.add_task(what, total=total or None, completed=done, told=self._told)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Marks ``steps`` as finished; ``note`` shows the best or latest result."""
        self.update(self.done + steps, note)

    def update(self, done: int, note: str = "") -> None:
        """Sets the number of finished steps."""
        ended = done == self.total != self.done
        self.done, self.note = done, note
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done)
        elif ended:
            _lines.print(self.describe())

    def retotal(self, total: int) -> None:
        """Changes the total number of steps."""
        self.total = total
        if self._live is not None and self._task is not None:
            self._live.update(self._task, total=total)

    def describe(self) -> str:
        """The progress in one line."""
        seconds = f"({time.monotonic() - self.started:.0f} s)"
        counter = f"{self.done}/{self.total} " if self.total else ""
        return f"{self.what}: {counter}{seconds} {self._told()}".rstrip()

    def _told(self) -> str:
        return self.note if self.look is None else self.look()


class _Told(ProgressColumn):
    """The status text of the work, requested on every refresh."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["told"]())


class _Lines:
    """Plain lines on stderr: explicit ones, and one on the innermost work after too long a silence."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active: list[tuple[Reporter, float]] = []
        self._printed = 0.0
        self._thread: threading.Thread | None = None

    def print(self, text: str) -> None:
        """Prints a line and restarts the silence timer."""
        with self._changed:
            self._printed = time.monotonic()
            if _SPEAKS:
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
            while self._active:
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


_lines = _Lines()


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Reporter]:
    """Shows ``what`` with done/total, elapsed and remaining time while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Told(),
    )
    with _shown(what, total, done, Progress(*columns, console=console)) as reporter:
        yield reporter


@contextmanager
def step(what: str, patience: float = 0.0) -> Iterator[Reporter]:
    """Shows ``what`` and its elapsed time; the reporter's ``look`` may add a status text.

    Args:
        what: in a few words.
        patience: seconds before it is shown at all.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), _Told())
    with _shown(what, 0, 0, Progress(*columns, console=console, transient=True), patience) as reporter:
        yield reporter


@contextmanager
def loading(what: str = "PyTorch and TVM") -> Iterator[None]:
    """A :func:`step` for imports, which on an idle machine are too fast for a line."""
    with step(f"loading {what}", _PATIENCE):
        yield


@contextmanager
def _shown(what: str, total: int, done: int, live: Progress, patience: float = 0.0) -> Iterator[Reporter]:
    if threading.current_thread() is not threading.main_thread():
        yield Reporter(what, total, None, done)  # only the main thread shows progress
        return
    if console.is_terminal and _SPEAKS:
        with live:
            yield Reporter(what, total, live, done)
        return
    reporter = Reporter(what, total, None, done)
    _lines.begin(reporter, patience)
    try:
        yield reporter
    finally:
        _lines.end(reporter)


def say(message: str) -> None:
    """Prints one line for humans, on stderr (stdout is for results and ``--json``)."""
    if not _SPEAKS:
        return
    if console.is_terminal:
        console.print(message, markup=False, soft_wrap=True)
    else:
        _lines.print(message)


def resumed(what: str, out: object, done: int, total: int) -> str:
    """A line on work with ``done`` of ``total`` steps already done: where it resumes, if anything is left."""
    if done >= total:
        return f"{what}: all {total} steps in {out} were done before"
    return f"{what}: resuming {out} at step {done + 1} of {total}"
