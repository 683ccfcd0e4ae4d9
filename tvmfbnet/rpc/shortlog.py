"""Log lines that strangers can cause: one short line each, a few of a kind in ten seconds, the rest counted."""

from __future__ import annotations

import logging
import sys
import time

_WINDOW_SECONDS = 10.0
_LINES = 5


def printable(text: str, limit: int = 80) -> str:
    """Text from outside as it may stand in a line: control characters replaced, length limited."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:limit])
    return shown + "..." if len(text) > limit else shown


class ShortLog:
    """Writes to stderr; kinds are few and the program's own, so that what is remembered stays small."""

    def __init__(self) -> None:
        self._windows: dict[str, list[float]] = {}

    def __call__(self, kind: str, message: str) -> None:
        """One line of a kind, unless there were many just now."""
        window = self._windows.get(kind)
        now = time.monotonic()
        if window is None or now >= window[0]:
            if window is not None and window[1] > _LINES:
                self._write(f"{window[1] - _LINES:.0f} more lines like the following were left out")
            window = self._windows[kind] = [now + _WINDOW_SECONDS, 0]
        window[1] += 1
        if window[1] <= _LINES:
            self._write(message)

    @staticmethod
    def _write(message: str) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(f"{when} warning {printable(message, 400)}", file=sys.stderr, flush=True)


class ShortHandler(logging.Handler):
    """The same for libraries that log through Python's logging: one line a record, never a traceback."""

    def __init__(self, log: ShortLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record's message, and what was raised in a few words."""
        raised = record.exc_info[1] if record.exc_info else None
        reason = f": {type(raised).__name__}: {raised}" if raised is not None else ""
        # The name of a record's place in the source is its kind: a message holds what strangers send.
        kind = f"{record.name}:{record.pathname}:{record.lineno}"
        self._log(kind, " ".join(f"{record.getMessage().split(chr(10))[0]}{reason}".split()))
