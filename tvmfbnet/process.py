"""Whether a command of ours owns this process, and so may change what outlives a call.

A library call leaves the process as it found it. What cannot be undone, such as the allocator's policy, is left to
commands: :func:`tvmfbnet.cli.main.main` runs in :func:`owned`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_owners: list[None] = []


@contextmanager
def owned() -> Iterator[None]:
    """The block runs a command, whose process is its own."""
    _owners.append(None)
    try:
        yield
    finally:
        _owners.pop()


def is_owned() -> bool:
    """Whether a command runs in this process."""
    return bool(_owners)
