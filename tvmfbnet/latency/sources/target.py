"""The measurements of a target as a latency source: its journal, or the table that was imported under its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.latency.context import Context
from tvmfbnet.latency.repository import corrected, load_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.space import NetPart, Space


@dataclass(frozen=True)
class TargetSource:
    """What :mod:`tvmfbnet.latency.repository` stores under a target's name. Cells have the label they were stored with.

    Attributes:
        name: of the target, or of an imported table.
        tuning_logs: folder of all targets' measurements; None for the usual one.
        context: which measurements to use; None for those of the context measured last.
        device_model: use only this device model's measurements; None for the model measured last.
        dtype: use only measurements in this dtype; None for that of ``context``, or float32 where there is any.
    """

    name: str
    tuning_logs: Path | None = None
    context: Context | None = None
    device_model: str | None = None
    dtype: str | None = None

    @property
    def computes(self) -> bool:
        """No: it has what was measured."""
        return False

    def load(self, parts: Sequence[NetPart] = ()) -> LatencyTable:
        """All that was measured or imported, whatever the parts: the regressor learns from the others as well."""
        table = load_table(self.name, self.tuning_logs, self.context, self.device_model, self.dtype)
        return table.with_origin("import" if table.context is None else "target", self.name)

    def correct(self, table: LatencyTable, space: Space) -> LatencyTable:
        """The table with the correction that ``latency validate`` stored for these cells, if there is one."""
        return corrected(table, self.name, space, self.tuning_logs)
