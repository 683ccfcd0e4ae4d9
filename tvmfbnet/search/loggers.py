"""Where a search's figures go while it runs: a CSV file, TensorBoard, both or nowhere.

Loggers only ever see the history, a list of one record per epoch that the checkpoint holds too. So a search that was
killed and continued leaves the same logs as one that was not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tvmfbnet.errors import UserError
from tvmfbnet.files import write_text

Record = Mapping[str, Any]


class Logger(Protocol):
    """Is shown the whole history after each epoch."""

    def log(self, history: Sequence[Record]) -> None:
        """Writes new records."""
        ...


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """The numbers of an epoch's record by name; lists give one per layer (``layer_entropy/3``), theta is left out."""
    for name, value in record.items():
        if isinstance(value, int | float):
            yield name, value
        elif name != "theta" and isinstance(value, list):
            yield from ((f"{name}/{index}", item) for index, item in enumerate(value))


class CsvLogger:
    """``metrics.csv``: one row per epoch."""

    def __init__(self, out: Path) -> None:
        self._path = out / "metrics.csv"

    def log(self, history: Sequence[Record]) -> None:
        """Rewrites the whole file, atomically."""
        rows = [dict(scalars(record)) for record in history]
        names = dict.fromkeys(name for row in rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self._path, text.getvalue())


class TensorBoardLogger:
    """Event files in ``tensorboard/``, for ``tensorboard --logdir``.

    Raises:
        UserError: the package ``tensorboard`` is not installed.
    """

    def __init__(self, out: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "loggers: tensorboard needs the package tensorboard; pip install 'tvmfbnet[tensorboard]', "
                "or use csv alone"
            ) from error
        # purge_step hides events that a killed run wrote after its last checkpoint.
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=done + 1)
        self._done = done

    def log(self, history: Sequence[Record]) -> None:
        """Writes the epochs that are not in the event files yet."""
        for record in history[self._done :]:
            for name, value in scalars(record):
                self._writer.add_scalar(name, value, record["epoch"])
        self._done = len(history)
        self._writer.flush()


def make_loggers(names: Sequence[str], out: Path, done: int) -> list[Logger]:
    """The loggers called ``csv`` or ``tensorboard``; ``done`` epochs were logged before."""
    makers: dict[str, Callable[[], Logger]] = {
        "csv": lambda: CsvLogger(out),
        "tensorboard": lambda: TensorBoardLogger(out, done),
    }
    return [makers[name]() for name in names]
