"""Progress for long work: a live line on a terminal, plain lines elsewhere. Always on stderr, never silent for long.

:func:`progress` counts, :func:`step` tells how long a step takes that cannot be counted. In a pipe each begins with a
line, and a thread repeats how far the innermost one is whenever nothing was printed for some seconds.
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

# Of several processes that torchrun started, the first one speaks.
_SPEAKS = os.environ.get("RANK", "0") == "0"

# Off a terminal a silence lasts so long at most (seconds): short while a step is young, longer in logs of hours.
SHORTEST_SILENCE, LONGEST_SILENCE = 4.0, 10.0
# A step that often takes no time is not worth a line before this.
_PATIENCE = 3.0


class Reporter:
    """Counts finished steps of one piece of work and shows them. Made by :func:`progress`; ``total`` 0 counts none."""

    def __init__(self, what: str, total: int, live: Progress | None, done: int = 0) -> None:
        self.what, self.total, self.done, self.note = what, total, done, ""
        # Says how far the work is, whenever that is shown; ``note`` otherwise.
        self.look: Callable[[], str] | None = None
        self.started = time.monotonic()
        self._live = live
        self._task = None
        if live is not None:
            self._task = live.add_task(what, total=total or None, completed=done, told=self._told)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Marks ``steps`` as finished; ``note`` says the best or newest result."""
        self.update(self.done + steps, note)

    def update(self, done: int, note: str = "") -> None:
        """Sets how many steps are finished."""
        ended = done == self.total != self.done
        self.done, self.note = done, note
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done)
        elif ended:
            _lines.print(self.describe())

    def retotal(self, total: int) -> None:
        """Sets how many steps there are in all, where that turned out to be another number."""
        self.total = total
        if self._live is not None and self._task is not None:
            self._live.update(self._task, total=total)

    def describe(self) -> str:
        """How far the work is, in a line."""
        seconds = f"({time.monotonic() - self.started:.0f} s)"
        counter = f"{self.done}/{self.total} " if self.total else ""
        return f"{self.what}: {counter}{seconds} {self._told()}".rstrip()

    def _told(self) -> str:
        return self.note if self.look is None else self.look()


class _Told(ProgressColumn):
    """What the work says of itself, asked whenever it is drawn."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["told"]())


class _Lines:
    """Plain lines on stderr: those that are asked for, and one for the innermost work whenever it got too quiet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active: list[tuple[Reporter, float]] = []
        self._printed = 0.0
        self._thread: threading.Thread | None = None

    def print(self, text: str) -> None:
        """Prints a line, and breaks the silence."""
        with self._changed:
            self._printed = time.monotonic()
            if _SPEAKS:
                print(text, file=sys.stderr, flush=True)

    def begin(self, work: Reporter, patience: float) -> None:
        """Tells of some work from now on, for the first time after ``patience`` seconds."""
        with self._changed:
            if not patience:
                self.print(work.describe().replace("(0 s)", "...") if not work.total else work.describe())
            self._active.append((work, work.started + patience))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="progress")
                self._thread.start()
            self._changed.notify()

    def end(self, work: Reporter) -> None:
        """Tells of it no more."""
        with self._changed:
            self._active = [entry for entry in self._active if entry[0] is not work]
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._active:
                work, first = self._active[-1]
                now = time.monotonic()
                most = LONGEST_SILENCE if work.look is None else SHORTEST_SILENCE  # who has news tells them
                silence = min(most, max(SHORTEST_SILENCE, (now - work.started) / 10))
                # A young step speaks up after its patience, however lately another one did.
                due = first if self._printed < work.started < first else max(first, self._printed + silence)
                if now >= due:
                    with suppress(OSError, ValueError):  # whoever has results to print finds that out, too
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
    """Shows ``what`` and for how long it has been going on; its ``look`` may say how far it is.

    Args:
        what: in a few words.
        patience: seconds before it is shown at all.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), _Told())
    with _shown(what, 0, 0, Progress(*columns, console=console, transient=True), patience) as reporter:
        yield reporter


@contextmanager
def loading(what: str = "PyTorch and TVM") -> Iterator[None]:
    """A :func:`step` for imports: on a quiet machine they are too short for a line."""
    with step(f"loading {what}", _PATIENCE):
        yield


@contextmanager
def _shown(what: str, total: int, done: int, live: Progress, patience: float = 0.0) -> Iterator[Reporter]:
    if threading.current_thread() is not threading.main_thread():
        yield Reporter(what, total, None, done)  # the main thread shows what it waits for
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
    """Prints one line for the person who watches, on stderr (stdout belongs to results and ``--json``)."""
    if not _SPEAKS:
        return
    if console.is_terminal:
        console.print(message, markup=False, soft_wrap=True)
    else:
        _lines.print(message)


def resumed(what: str, out: object, done: int, total: int) -> str:
    """What is said of work of which ``done`` of ``total`` steps were done before: where it resumes, if anywhere."""
    if done >= total:
        return f"{what}: all {total} steps in {out} were done before"
    return f"{what}: resuming {out} at step {done + 1} of {total}"
