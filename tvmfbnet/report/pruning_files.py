"""The prunings in a run folder, read for its report: ``pruning/NAME/prune.json``, validated on every read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from tvmfbnet.errors import StorageError
from tvmfbnet.files import Stored, read_model
from tvmfbnet.run_files import Count, Milliseconds, Name, Share

PRUNINGS = "pruning"
"""The folder in a run's folder; each folder in it is a pruning of the found net."""


class _Record(Stored):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class PruneRoundRecord(_Record):
    """One round: what remained of the net, and the accuracy that it reached."""

    round: Count
    weights: Count
    remaining: Annotated[float, Field(ge=0, le=1)]
    latency_ms: Milliseconds | None = None
    arch: Name
    test_accuracy: Share
    control_accuracy: Share | None = None


class PruneRecord(_Record):
    """``prune.json``: the rounds, the dense net first."""

    rewind_epochs: Count
    rounds: Annotated[list[PruneRoundRecord], Field(min_length=1, max_length=100_000)]

    @property
    def of_channels(self) -> bool:
        """Whether channels were removed, in place of single weights."""
        return self.rounds[-1].latency_ms is not None


def read_prunings(run: Path) -> dict[str, PruneRecord]:
    """The finished prunings of a run's net, by the names of their folders.

    Args:
        run: the run's folder.

    Raises:
        StorageError: a file is damaged; names it and says what is wrong and what to do.
    """
    records = {}
    for path in sorted((run / PRUNINGS).glob("*/prune.json")):
        try:
            records[path.parent.name] = read_model(path, PruneRecord)
        except StorageError as error:
            raise StorageError(f"{error}; remove it and prune again") from error
    return records
