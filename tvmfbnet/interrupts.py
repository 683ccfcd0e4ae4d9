"""What a Ctrl-C does: one line at once that says how long stopping may take, and the process has ended by then.

A command runs under :class:`Interrupts`. A thread of its own hears a Ctrl-C the moment it comes, also while the main
thread is deep in a library, says so, and ends the process when the time is up. That is safe: whatever is killed here
resumes. The main thread meanwhile unwinds by :class:`KeyboardInterrupt`, at once or, where something is worth saving
(:func:`saved_steps`), as soon as it is saved. A second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# What the shell shows for a command that a Ctrl-C ended: 128 + SIGINT.
EXIT_CODE = 130
# Longest time that stopping takes where nothing must be saved, as told; the process ends itself a little earlier.
STOP_SECONDS = 3
_MARGIN_SECONDS = 0.9
# Saving is taken to last so long until it was done once.
_UNKNOWN_SAVE_SECONDS = 2.0
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """SIGINT's handler while a command runs.

    Attributes:
        resumes: whether the same command, run again, resumes; the line promises it only then.
        seconds: how long stopping may take.
        saving: what is saved meanwhile; empty for nothing.
        received: whether a Ctrl-C came.
    """

    def __init__(self) -> None:
        self.resumes, self.received = False, False
        self.seconds, self.saving = STOP_SECONDS, ""
        self.held, self._pending = 0, False
        self._telling, self._told = threading.Lock(), False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A Ctrl-C in the main thread: :class:`KeyboardInterrupt`, later where it is held back."""
        self.received = True
        if self.held:
            self._pending = True
        else:
            raise KeyboardInterrupt

    @property
    def pending(self) -> bool:
        """Whether a Ctrl-C is held back."""
        return self._pending

    def raise_pending(self) -> None:
        """Raises a Ctrl-C that was held back, unless it still is."""
        if self._pending and not self.held:
            self._pending = False
            raise KeyboardInterrupt

    def tell(self) -> None:
        """Says once what happens now. Straight to the descriptor: another thread may be in the middle of printing."""
        with self._telling:
            if self._told:
                return
            self._told = True
            saving = f", saving {self.saving} first" if self.saving else ""
            resume = "; run the same command to resume" if self.resumes else ""
            line = f"interrupted: stopping (up to {self.seconds} s){saving}{resume}\n".encode()
            if os.environ.get("RANK", "0") == "0":  # of several processes that torchrun started, the first one speaks
                with suppress(OSError):
                    os.write(2, (b"\r\x1b[K" if os.isatty(2) else b"") + line)

    def end(self) -> None:
        """Ends the process once all is unwound; Python itself would take seconds to take large libraries apart."""
        self.tell()
        _end()

    def watch(self, pipe: int) -> None:
        """A thread's work: reads signals from a pipe, tells of the first Ctrl-C, and sees to the end of the process."""
        poll, deadline = select.poll(), math.inf
        poll.register(pipe, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                _end()
            if not poll.poll(None if math.isinf(left) else 1e3 * left):
                continue
            numbers = os.read(pipe, 64)
            if not numbers:
                return
            if _installed() is not self:
                continue  # a server that has its own way to end
            for _ in range(numbers.count(signal.SIGINT)):
                if not math.isinf(deadline):
                    _end()
                self.received, deadline = True, time.monotonic() + self.seconds - _MARGIN_SECONDS
                self.tell()


def _end() -> None:
    """Ends the process without another word; its children end with it."""
    if os.isatty(2):  # a live line hides the cursor
        with suppress(OSError):
            os.write(2, _SHOW_CURSOR)
    os._exit(EXIT_CODE)


def _installed() -> Interrupts | None:
    handler = signal.getsignal(signal.SIGINT)
    return handler if isinstance(handler, Interrupts) else None


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handled() -> Iterator[Interrupts]:
    """Has a Ctrl-C handled as this module says while the block runs; in another thread than the main one, nothing."""
    handler = Interrupts()
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield handler
        return
    pipe, end = os.pipe()
    os.set_blocking(end, False)
    before = signal.signal(signal.SIGINT, handler)
    woken = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    thread = threading.Thread(target=handler.watch, args=(pipe,), daemon=True, name="interrupts")
    thread.start()
    try:
        yield handler
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGINT, before)
        os.close(end)
        thread.join()
        os.close(pipe)


def promise_resume() -> None:
    """Says that the command under way, run again, resumes where a Ctrl-C ends it."""
    handler = _installed()
    if handler is not None:
        handler.resumes = True


def is_stopping() -> bool:
    """Whether a Ctrl-C came to the command under way: what fails now may fail because of that."""
    handler = _installed()
    return handler is not None and handler.received


def raise_if_interrupted() -> None:
    """:class:`KeyboardInterrupt` where a Ctrl-C came and was lost, as in a library that turns it into another error."""
    handler = _installed()
    if handler is not None and handler.received and not handler.held:
        raise KeyboardInterrupt


@contextmanager
def _holding() -> Iterator[Interrupts]:
    """Holds a Ctrl-C back for the block, under the handler that is there or one of its own."""
    handler = _installed()
    before = None
    if handler is None:
        handler = Interrupts()
        before = signal.signal(signal.SIGINT, handler)
    handler.held += 1
    try:
        yield handler
    finally:
        handler.held -= 1
        if before is not None:
            signal.signal(signal.SIGINT, before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Holds a Ctrl-C back until the block is done; then it is raised as :class:`KeyboardInterrupt`.

    For short pieces of work that belong together. Other threads than the main one are never interrupted anyway.
    """
    if not _is_main_thread():
        yield
        return
    with _holding() as handler:
        yield
    handler.raise_pending()


class SavedSteps:
    """Steps of a long loop; made by :func:`saved_steps`.

    Args:
        handler: holds a Ctrl-C back; None where nothing is saved for one.
        what: what is saved, for the line.
    """

    def __init__(self, handler: Interrupts | None, what: str) -> None:
        self._handler, self._what = handler, what
        self._longest = {"step": 0.0, "save": _UNKNOWN_SAVE_SECONDS}
        self._timed = {"step": 0, "save": 0}

    @property
    def interrupted(self) -> bool:
        """Whether the loop shall save and then call :meth:`end_if_interrupted`."""
        return self._handler is not None and self._handler.pending

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Times a ``step`` or a ``save``: so long, at most, a Ctrl-C waits for the next one."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._timed[kind] += 1
        if kind == "save" and self._timed[kind] == 1:
            self._longest[kind] = seconds
        elif kind == "save" or self._timed[kind] > 1:  # the first step also pays for what is made once
            self._longest[kind] = max(seconds, self._longest[kind])
        self._tell_handler()

    def _tell_handler(self) -> None:
        if self._handler is None:
            return
        if not self._handler.saving:  # the first step is done, so there is something to save
            self._handler.held += 1
            self._handler.saving = self._what
        self._handler.seconds = STOP_SECONDS + math.ceil(1.5 * sum(self._longest.values()))

    def end_if_interrupted(self) -> None:
        """:class:`KeyboardInterrupt` where a Ctrl-C was held back."""
        if self.interrupted:
            raise KeyboardInterrupt


@contextmanager
def saved_steps(what: str, saves: bool = True) -> Iterator[SavedSteps]:
    """A loop whose state is saved between two steps when a Ctrl-C comes. Before its first step has ended it just ends.

    Args:
        what: what is saved, for the line.
        saves: False where it is not this process's alone to save; then a Ctrl-C ends the loop at once.
    """
    handler = _installed() if saves and _is_main_thread() else None
    if handler is None:
        yield SavedSteps(None, what)
        return
    try:
        yield SavedSteps(handler, what)
    finally:
        if handler.saving:
            handler.held -= 1
            if not handler.received:  # else the line may still have to be told, as it was when the Ctrl-C came
                handler.saving, handler.seconds = "", STOP_SECONDS
    handler.raise_pending()
