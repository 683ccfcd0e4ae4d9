"""Rate-limited log for lines that strangers can trigger: short, a few per kind in ten seconds, the others counted."""

from __future__ import annotations

import logging
import sys
import time

_WINDOW_SECONDS = 10.0
_LINES = 5


def printable(text: str, limit: int = 80) -> str:
    """Untrusted text made safe for a log line: control characters replaced, length limited."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:limit])
    return shown + "..." if len(text) > limit else shown


class ShortLog:
    """Writes to stderr; kinds are few and fixed, so that the state stays small."""

    def __init__(self) -> None:
        self._windows: dict[str, list[float]] = {}

    def __call__(self, kind: str, message: str) -> None:
        """Writes a line of a kind, unless there were too many recently."""
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
    """The same for libraries that use Python's logging: one line per record, never a traceback."""

    def __init__(self, log: ShortLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record's message and its exception, if any, in one line."""
        raised = record.exc_info[1] if record.exc_info else None
        reason = f": {type(raised).__name__}: {raised}" if raised is not None else ""
        # The kind is the record's source location, because messages may contain untrusted text.
        kind = f"{record.name}:{record.pathname}:{record.lineno}"
        self._log(kind, " ".join(f"{record.getMessage().split(chr(10))[0]}{reason}".split()))
