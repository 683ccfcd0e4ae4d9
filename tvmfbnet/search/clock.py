"""The time that a search takes, added up over all its starts.

It is kept in ``spent.json`` and written every few seconds, so that a search that was killed loses moments at most. A
finished search's time stays as it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

from tvmfbnet.errors import StorageError
from tvmfbnet.files import Stored, read_model, write_json

SPENT_FILE = "spent.json"
_EVERY_SECONDS = 5.0


class Spent(Stored):
    """Seconds of work so far, and whether no more will follow."""

    seconds: float = Field(ge=0)
    finished: bool


class SpentTime:
    """Counts from now on, beginning with the time of earlier starts.

    Args:
        path: what earlier starts wrote.

    Raises:
        StorageError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._started = path, time.monotonic()
        self._before = read_model(path, Spent) if path.exists() else Spent(seconds=0.0, finished=False)
        self._total: float | None = self._before.seconds if self._before.finished else None

    @property
    def seconds(self) -> float:
        """Of all starts together."""
        return self._before.seconds + time.monotonic() - self._started if self._total is None else self._total

    def finish(self) -> float:
        """Stops for good; the seconds of all starts together."""
        self._total = self.seconds
        return self._total

    def write(self) -> None:
        """Keeps the time so far."""
        write_json(self._path, Spent(seconds=self.seconds, finished=self._total is not None).model_dump())


@contextmanager
def spent_time(folder: Path, writes: bool = True) -> Iterator[SpentTime]:
    """Counts the time inside the block.

    Args:
        folder: the search's, locked for it.
        writes: whether this process keeps the file.

    Raises:
        StorageError: ``spent.json`` is damaged, or cannot be written.
    """
    spent, ended = SpentTime(folder / SPENT_FILE), threading.Event()

    def keep_writing() -> None:
        while not ended.wait(_EVERY_SECONDS):
            with suppress(StorageError):  # the last writing says so
                spent.write()

    writer = threading.Thread(target=keep_writing, name="spent time", daemon=True)
    if writes:
        writer.start()
    try:
        yield spent
    finally:
        ended.set()
        if writes:
            writer.join()
            spent.write()
