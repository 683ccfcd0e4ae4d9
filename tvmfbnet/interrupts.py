"""Ctrl-C handling: one immediate line says how long stopping may take, and the process exits within that time.

A command runs under :class:`Interrupts`. A watcher thread notices a Ctrl-C immediately, even while the main thread is
deep in a library, prints the line, and kills the process at the deadline. That is safe, because everything killed here
can be resumed. Meanwhile the main thread unwinds by :class:`KeyboardInterrupt`, immediately or, inside
:func:`saved_steps`, once the state is saved. A second Ctrl-C exits immediately.
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

# The shell's exit code after a Ctrl-C: 128 + SIGINT.
EXIT_CODE = 130
# The announced limit for stopping without a save; the process exits a little earlier.
STOP_SECONDS = 3
_MARGIN_SECONDS = 0.9
# Assumed duration of a save before the first one was timed.
_UNKNOWN_SAVE_SECONDS = 2.0
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """SIGINT's handler while a command runs.

    Attributes:
        resumes: whether rerunning the same command resumes, as the line then promises.
        seconds: how long stopping may take.
        saving: what is being saved meanwhile; empty for nothing.
        received: whether a Ctrl-C arrived.
    """

    def __init__(self) -> None:
        self.resumes, self.received = False, False
        self.seconds, self.saving = STOP_SECONDS, ""
        self.held, self._pending = 0, False
        self._telling, self._told = threading.Lock(), False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a Ctrl-C in the main thread: raises :class:`KeyboardInterrupt`, or defers it while held back."""
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
        """Prints the line once, straight to the file descriptor: another thread may be in the middle of printing."""
        with self._telling:
            if self._told:
                return
            self._told = True
            saving = f", saving {self.saving} first" if self.saving else ""
            resume = "; run the same command to resume" if self.resumes else ""
            line = f"interrupted: stopping (up to {self.seconds} s){saving}{resume}\n".encode()
            if os.environ.get("RANK", "0") == "0":  # under torchrun only rank 0 prints
                with suppress(OSError):
                    os.write(2, (b"\r\x1b[K" if os.isatty(2) else b"") + line)

    def end(self) -> None:
        """Exits once everything is unwound; Python's own teardown of large libraries would take seconds."""
        self.tell()
        _end()

    def watch(self, pipe: int) -> None:
        """The watcher thread: reads signals from a pipe, announces the first Ctrl-C, and enforces the deadline."""
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
                continue  # a server with its own shutdown
            for _ in range(numbers.count(signal.SIGINT)):
                if not math.isinf(deadline):
                    _end()
                self.received, deadline = True, time.monotonic() + self.seconds - _MARGIN_SECONDS
                self.tell()


def _end() -> None:
    """Exits without further output; the children die with the process."""
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
    """Installs this module's Ctrl-C handling for the block; a no-op outside the main thread."""
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
    """Declares that rerunning the current command resumes it after a Ctrl-C."""
    handler = _installed()
    if handler is not None:
        handler.resumes = True


def is_stopping() -> bool:
    """Whether the current command received a Ctrl-C: any failure may be a consequence of it."""
    handler = _installed()
    return handler is not None and handler.received


def raise_if_interrupted() -> None:
    """Raises :class:`KeyboardInterrupt` for a lost Ctrl-C, as in a library that turns it into another error."""
    handler = _installed()
    if handler is not None and handler.received and not handler.held:
        raise KeyboardInterrupt


@contextmanager
def _holding() -> Iterator[Interrupts]:
    """Defers a Ctrl-C during the block, using the installed handler or a temporary one."""
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
    """Defers a Ctrl-C until the end of the block, then raises :class:`KeyboardInterrupt`.

    For short critical sections. Threads other than the main one are never interrupted anyway.
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
        handler: defers a Ctrl-C; None where nothing is saved.
        what: what is saved, for the line.
    """

    def __init__(self, handler: Interrupts | None, what: str) -> None:
        self._handler, self._what = handler, what
        self._longest = {"step": 0.0, "save": _UNKNOWN_SAVE_SECONDS}
        self._timed = {"step": 0, "save": 0}

    @property
    def interrupted(self) -> bool:
        """Whether the loop should save and then call :meth:`end_if_interrupted`."""
        return self._handler is not None and self._handler.pending

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Times a ``step`` or a ``save``; the longest ones bound how long a Ctrl-C waits."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._timed[kind] += 1
        if kind == "save" and self._timed[kind] == 1:
            self._longest[kind] = seconds
        elif kind == "save" or self._timed[kind] > 1:  # the first step includes one-time setup
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
        """Raises :class:`KeyboardInterrupt` if a Ctrl-C was deferred."""
        if self.interrupted:
            raise KeyboardInterrupt


@contextmanager
def saved_steps(what: str, saves: bool = True) -> Iterator[SavedSteps]:
    """A loop that saves its state between steps on a Ctrl-C. Before the end of its first step it just exits.

    Args:
        what: what is saved, for the line.
        saves: False if this process cannot save on its own; then a Ctrl-C ends the loop immediately.
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
            if not handler.received:  # else the line may still be printed, with the values at the time of the Ctrl-C
                handler.saving, handler.seconds = "", STOP_SECONDS
    handler.raise_pending()
