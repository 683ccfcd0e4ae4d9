"""A target's measurements in float32 and in int8 as one latency source: of each block, the faster dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.dtypes import FLOAT32, INT8, MIXED
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.mixed import ChosenDtypes, DtypeTables, fastest_dtypes
from tvmfbnet.latency.mixed_table import mixed_table
from tvmfbnet.latency.sources.source import latency_table
from tvmfbnet.latency.sources.target import TargetSource
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import NetPart, Space


@dataclass(frozen=True)
class MixedSource:
    """What was measured for a target in both dtypes (:mod:`tvmfbnet.latency.mixed_table`).

    Attributes:
        name: of the target.
        tuning_logs: folder of all targets' measurements; None for the usual one.
        device_model: use only this device model's measurements; None for the model measured last.
        contexts: which measurements in float32 and in int8 to use; None for those of the contexts measured last.
    """

    name: str
    tuning_logs: Path | None = None
    device_model: str | None = None
    contexts: tuple[Context, Context] | None = None

    @property
    def _sources(self) -> tuple[TargetSource, TargetSource]:
        """The measurements in float32 and in int8."""
        contexts = self.contexts or (None, None)
        float32, int8 = (
            TargetSource(self.name, self.tuning_logs, context, self.device_model, dtype.name)
            for dtype, context in zip((FLOAT32, INT8), contexts, strict=True)
        )
        return float32, int8

    @property
    def computes(self) -> bool:
        """No: it has what was measured in both dtypes."""
        return False

    def load(self, parts: Sequence[NetPart] = ()) -> LatencyTable:
        """All that was measured in both dtypes, whatever the parts: the regressor learns from the others as well.

        Raises:
            LatencyError: nothing was measured in one of the dtypes, or no conversions at the borders of ``parts``.
        """
        return mixed_table(self.tables(), parts).with_origin(MIXED, self.name)

    def tables(self) -> DtypeTables:
        """The tables of the two dtypes as they are.

        Raises:
            LatencyError: nothing was measured in one of them, or no conversions were.
        """
        float32, int8 = self._sources
        return DtypeTables(float32.load(), int8.load())

    def fastest(self, arch: Arch, space: Space) -> ChosenDtypes:
        """The dtypes with which one net takes least time.

        Raises:
            LatencyError: as :meth:`tables_of`.
        """
        return fastest_dtypes(self.tables_of(arch, space), arch, space)

    def tables_of(self, arch: Arch, space: Space) -> DtypeTables:
        """The tables of the two dtypes for one net: what was not measured is predicted, and corrections are applied.

        Raises:
            LatencyError: as :meth:`load`, or there is too little to predict from.
        """
        self.tables()  # what is missing altogether is said once, before anything is predicted
        parts = space.parts_of(arch)
        float32, int8 = (latency_table(source, space, parts=parts) for source in self._sources)
        return DtypeTables(float32, int8)

    def correct(self, table: LatencyTable, space: Space) -> LatencyTable:
        """The same table: corrections belong to sums of cells of one dtype."""
        return table
