"""A table in a file as a latency source: CSV, Parquet or JSON (:mod:`tvmfbnet.latency.table_io`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.space.space import NetPart, Space


@dataclass(frozen=True)
class FileSource:
    """A latency table that was measured, exported or simulated elsewhere. Cells have the label in the file.

    Attributes:
        path: the file.
    """

    path: Path

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def computes(self) -> bool:
        """No: it has what is in the file."""
        return False

    def load(self, parts: Sequence[NetPart] = ()) -> LatencyTable:
        """All rows, whatever the parts."""
        return read_table(self.path).with_origin("file", self.name)

    def correct(self, table: LatencyTable, space: Space) -> LatencyTable:
        """The same table: nothing but its cells is known of a file."""
        return table
