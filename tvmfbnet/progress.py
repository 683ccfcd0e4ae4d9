"""Progress of long work, told to whoever observes it; the library itself prints nothing.

:func:`progress` counts steps, :func:`step` covers work that cannot be counted, and :func:`say` is for one line. Each
goes to the :class:`Observer` of the current context, if there is one: the command line's
(:mod:`tvmfbnet.cli.terminal`) draws a live line, and :func:`observing` calls a function of the user's with typed
events. Lines are also records of the standard :mod:`logging`, under the name of the module that says them.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Event", "Message", "WorkAdvanced", "WorkEnded", "WorkEvent", "WorkStarted", "observing"]

# Seconds before a step that is usually instant is worth showing.
PATIENCE = 3.0

_PACKAGE = __name__.partition(".")[0]
_LEVELS = {"warning: ": logging.WARNING, "note: ": logging.INFO}


@dataclass(frozen=True)
class WorkEvent:
    """A moment of some long work.

    Attributes:
        work: what is being done, in a few words.
        done: finished steps.
        total: steps in all; None where they cannot be counted.
        seconds: since it started.
        status: the best or latest result; may be empty.
        depth: how many other works it is part of.
    """

    work: str
    done: int
    total: int | None
    seconds: float
    status: str
    depth: int


class WorkStarted(WorkEvent):
    """Some work starts, or resumes at step ``done``."""


class WorkAdvanced(WorkEvent):
    """Some steps of it are finished."""


class WorkEnded(WorkEvent):
    """It ended, for whatever reason; it is complete if ``done`` is ``total``."""


@dataclass(frozen=True)
class Message:
    """One line for people, which was logged as well.

    Attributes:
        level: of :mod:`logging`: ``INFO`` or ``WARNING``.
        text: the line.
    """

    level: int
    text: str


Event = WorkStarted | WorkAdvanced | WorkEnded | Message


class Reporter:
    """Counts the finished steps of some work and tells its observer. Made by :func:`progress` and :func:`step`.

    Args:
        what: the work, in a few words.
        total: steps in all; 0 for work that is not counted.
        done: steps that were finished before.
        counted: whether steps are counted at all; a count may still have a total of 0.
    """

    def __init__(self, what: str, total: int, done: int = 0, counted: bool = True) -> None:
        self.what, self.total, self.done, self.note, self.counted = what, total, done, "", counted
        # Called for the status text whenever it is shown; ``note`` is shown without it.
        self.look: Callable[[], str] | None = None
        self.started = time.monotonic()
        self._observer = _observer.get()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Marks ``steps`` as finished; ``note`` shows the best or latest result."""
        self.update(self.done + steps, note)

    def update(self, done: int, note: str = "") -> None:
        """Sets the number of finished steps."""
        ended = done == self.total != self.done
        self.done, self.note = done, note
        if self._observer is not None:
            self._observer.advanced(self, ended)

    def retotal(self, total: int) -> None:
        """Changes the total number of steps."""
        self.total = total
        if self._observer is not None:
            self._observer.advanced(self, False)

    def status(self) -> str:
        """The status text as it is now."""
        return self.note if self.look is None else self.look()

    def describe(self) -> str:
        """The progress in one line."""
        seconds = f"({time.monotonic() - self.started:.0f} s)"
        counter = f"{self.done}/{self.total} " if self.total else ""
        return f"{self.what}: {counter}{seconds} {self.status()}".rstrip()


class Observer(Protocol):
    """Is told of long work as it happens, in the thread that does it.

    One observer is in force per context (:func:`observed`); threads that the library starts have none. An observer that
    raises stops the work, which can be resumed like any other that was stopped.
    """

    def started(self, work: Reporter, patience: float) -> None:
        """Some work starts; it is worth showing after ``patience`` seconds."""
        ...

    def advanced(self, work: Reporter, complete: bool) -> None:
        """Its count, total or note changed; ``complete`` where this finished its last step."""
        ...

    def ended(self, work: Reporter) -> None:
        """It ended, with or without an error."""
        ...

    def said(self, message: Message) -> None:
        """One line, which was also logged."""
        ...


_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observed(observer: Observer | None) -> Iterator[None]:
    """Tells ``observer``, or nobody, of all work in the block; afterwards the one before is in force again."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@contextmanager
def observing(callback: Callable[[Event], None]) -> Iterator[None]:
    """Calls ``callback`` with an event for everything that library calls in the block report.

    An exception from the callback stops the call, which can be resumed like any other that was stopped.

    Example:
        >>> import tvmfbnet as tf
        >>> from tvmfbnet.progress import progress
        >>> def show(event: tf.Event) -> None:
        ...     if isinstance(event, tf.WorkAdvanced):
        ...         print(f"{event.work}: {event.done} of {event.total}")
        >>> with tf.observing(show), progress("timing nets", 2) as reporter:
        ...     reporter.advance(2)
        timing nets: 2 of 2
    """
    with observed(_Events(callback)):
        yield


class _Events:
    """The observer that calls a function with typed events."""

    def __init__(self, callback: Callable[[Event], None]) -> None:
        self._callback, self._active = callback, list[Reporter]()

    def started(self, work: Reporter, patience: float) -> None:
        self._active.append(work)
        self._tell(WorkStarted, work)

    def advanced(self, work: Reporter, complete: bool) -> None:
        self._tell(WorkAdvanced, work)

    def ended(self, work: Reporter) -> None:
        try:
            self._tell(WorkEnded, work)
        finally:
            self._active.remove(work)

    def said(self, message: Message) -> None:
        self._callback(message)

    def _tell(self, kind: type[WorkStarted | WorkAdvanced | WorkEnded], work: Reporter) -> None:
        seconds, depth = time.monotonic() - work.started, self._active.index(work)
        self._callback(kind(work.what, work.done, work.total or None, seconds, work.status(), depth))


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Reporter]:
    """Reports ``what`` while the block runs: done and total steps, elapsed and remaining time."""
    with _reported(Reporter(what, total, done)) as reporter:
        yield reporter


@contextmanager
def step(what: str, patience: float = 0.0) -> Iterator[Reporter]:
    """Reports ``what`` and its elapsed time; the reporter's ``look`` may add a status text.

    Args:
        what: in a few words.
        patience: seconds before it is worth showing.
    """
    with _reported(Reporter(what, 0, counted=False), patience) as reporter:
        yield reporter


@contextmanager
def loading(what: str = "PyTorch and TVM") -> Iterator[None]:
    """A :func:`step` for imports, which on an idle machine are too fast for a line.

    Imports make few cycles of garbage; looking for them would cost a tenth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with step(f"loading {what}", PATIENCE):
            yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _reported(work: Reporter, patience: float = 0.0) -> Iterator[Reporter]:
    observer = _observer.get()
    if observer is None:
        yield work
        return
    observer.started(work, patience)
    try:
        yield work
    finally:
        observer.ended(work)


def say(message: str) -> None:
    """Logs one line for people under the name of the calling module, and tells the observer.

    Args:
        message: ``warning: ...`` is logged as a warning, ``note: ...`` and everything else as information.
    """
    name = str(sys._getframe(1).f_globals.get("__name__", _PACKAGE))
    prefix = next((prefix for prefix in _LEVELS if message.startswith(prefix)), "")
    level, text = _LEVELS.get(prefix, logging.INFO), message.removeprefix(prefix)
    logger = logging.getLogger(name if name.startswith(f"{_PACKAGE}.") else _PACKAGE)
    logger.log(level, "%s", text, extra={"prefix": prefix}, stacklevel=2)
    observer = _observer.get()
    if observer is not None:
        observer.said(Message(level, text))


def resumed(what: str, out: object, done: int, total: int) -> str:
    """A line on work with ``done`` of ``total`` steps already done: where it resumes, if anything is left."""
    if done >= total:
        return f"{what}: all {total} steps in {out} were done before"
    return f"{what}: resuming {out} at step {done + 1} of {total}"
