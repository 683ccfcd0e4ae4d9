"""Stdout and stderr as they may be: in another encoding, closed, a pipe whose reader has gone, a full disk."""

from __future__ import annotations

import codecs
import os
import select
import sys
from contextlib import suppress
from typing import NoReturn, TextIO

# What a process that wrote to a closed pipe ends with, as the shell shows it: 128 + SIGPIPE.
CLOSED_PIPE = 141


def prepare() -> None:
    """Has characters that the stream's encoding lacks written as escapes, instead of failing over them; µs as us."""
    codecs.register_error("tvmfbnet", _replace)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="tvmfbnet")


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] == "µ":
        return "u", error.start + 1
    return codecs.backslashreplace_errors(error)


def flush() -> OSError | None:
    """Writes out what is buffered for stdout; the error where that is impossible, after which stdout leads nowhere."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        return error
    return None


def end(code: int) -> NoReturn:
    """Ends the process here and now, with what was said written out."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or gone
        sys.stderr.flush()
    os._exit(code)


def complain(message: str) -> None:
    """Prints a line on stderr, if there is one that takes it."""
    if sys.stderr is None:
        return
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more: `tvmfbnet ... | head` is no failure."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no stdout, or one without a descriptor
        return False


def _discard(stream: TextIO) -> None:
    """Leads a stream to the null device, so that what is still buffered does not fail again when Python ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # a stream without a descriptor, as tests have: nothing to lead elsewhere
        return
