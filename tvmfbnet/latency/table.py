"""The latency table: the latency of every part of a space on one target, in milliseconds.

A cell has a part's share of a net's latency and says whether it was measured, predicted or simulated; the overhead of
calling the runtime is separate and added once per net. A part missing from the table is an error, never zero; only an
identity skip, which computes nothing, costs 0 if the table has no cell for it. One table never holds both measured and
simulated cells.

LATENCY(arch) = overhead + stem + sum over layers + head (equation 2 of the FBNet paper, arXiv 1812.03443).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tvmfbnet.batches import named_batch
from tvmfbnet.dtypes import FLOAT32, MIXED, DType, dtype_named
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.cells import MEASURED, NOTHING, PREDICTED, SIMULATED, SOURCES, Cell, Source, cell_of
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.energies import Energies
from tvmfbnet.latency.measurement import NET, OVERHEAD, OVERHEAD_PART, Measurement
from tvmfbnet.latency.origin import UNKNOWN, LatencyOrigin, OriginKind, TimedSource
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.borders import CONVERSION
from tvmfbnet.space.space import HEAD_LINEAR, NetPart, Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tvmfbnet.latency.sources.source import LatencySource

_LISTED = 12


class Predictor(Protocol):
    """Predicts latency and spread of parts, in milliseconds, to fill a table."""

    def predict(self, parts: Sequence[NetPart]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two arrays, one value per part."""
        ...


def target_by_share(share: float, slowest_ms: float) -> float:
    """A relative latency target in milliseconds: a share of the slowest net's latency.

    Args:
        share: above 0 and up to 1; 50 % of 10 ms is 5 ms.
        slowest_ms: latency of the slowest net of the space by the table (:meth:`LatencyTable.range_ms`).
    """
    return round(share * slowest_ms, 6)


@dataclass(frozen=True)
class LatencyTable:
    """The cells of one target. Treat ``cells`` as read-only; :meth:`fill` makes a new table.

    Attributes:
        cells: latency of each part.
        overhead_ms: cost of calling the runtime, paid once per net.
        name: target or file it comes from, for messages.
        correction: the correction applied to make sums agree with whole nets (:mod:`tvmfbnet.latency.additivity`); ""
            if there is none.
        kernel_ms: summed latency of each tuned part's kernels, timed alone; for predictions.
        context: of the measurements; None for an imported table.
        origin: where its latencies come from.
        stated_dtype: what the file of an imported table says; empty where it says nothing.
        energies: of its parts, where they were measured.
        batch: images of a call, whose latencies and energies these are.
        conversions: latency of each timed conversion from and to this dtype (:mod:`tvmfbnet.space.borders`), which
            only nets of mixed dtypes have.
    """

    cells: Mapping[NetPart, Cell]
    overhead_ms: float = 0.0
    name: str = ""
    correction: str = ""
    kernel_ms: Mapping[NetPart, float] = field(default_factory=dict)
    context: Context | None = None
    origin: LatencyOrigin = UNKNOWN
    stated_dtype: str = ""
    energies: Energies = field(default_factory=Energies)
    batch: int = 1
    conversions: Mapping[NetPart, Cell] = field(default_factory=dict)

    @property
    def data_type(self) -> DType:
        """The dtype of its measurements; float32 for an imported table that does not say."""
        name = self.stated_dtype if self.context is None else self.context.dtype
        return dtype_named(name) if name else FLOAT32

    @property
    def dtype_name(self) -> str:
        """The dtype for people: ``mixed`` where blocks are in different ones."""
        return MIXED if self.origin.kind == MIXED else self.data_type.name

    def __post_init__(self) -> None:
        cells = (*self.cells.values(), *self.conversions.values())
        if self.is_simulated and any(cell.source == MEASURED for cell in cells):
            raise LatencyError(
                f"latency table {self.name or '(unnamed)'} mixes measured and simulated latencies; keep two tables"
            )
        if self.is_simulated and not self.origin.simulated:
            object.__setattr__(self, "origin", replace(self.origin, simulated=True))

    def with_origin(self, kind: OriginKind, name: str) -> LatencyTable:
        """The same table, with where its latencies come from; a simulated one stays simulated."""
        return replace(self, origin=LatencyOrigin(kind, name, self.is_simulated))

    @classmethod
    def load(
        cls,
        source: str | Path | LatencySource,
        space: Space | None = None,
        *,
        tuning_logs: str | Path | None = None,
        device_model: str | None = None,
    ) -> LatencyTable:
        """The table of a target (``host``), of a file (``pixel3.csv``) or of ``simulated:gflops=16,gbps=8``.

        Args:
            source: as on the command line, or a :class:`~tvmfbnet.latency.sources.source.LatencySource`.
            space: with it, the table covers the whole space: missing parts are predicted, and a stored correction is
                applied. Without it, the table has what the source has, as it is.
            tuning_logs: folder of all targets' measurements; see :func:`tvmfbnet.latency.repository.logs_root`.
            device_model: use only this device model's measurements.

        Raises:
            LatencyError: the source has nothing, or too little to predict the missing parts from.
            UserError: the source cannot be read; the message says what is wrong.

        Example:
            >>> import tvmfbnet as tf
            >>> space = tf.Space.load("fbnet_mini")
            >>> table = tf.LatencyTable.load("table.csv", space)
            >>> fastest_ms, slowest_ms = table.range_ms(space)
            >>> 0 < fastest_ms < slowest_ms
            True
        """
        from tvmfbnet.latency.sources.registry import source_of
        from tvmfbnet.latency.sources.source import latency_table

        logs = None if tuning_logs is None else Path(tuning_logs)
        chosen = source_of(source, logs, device_model) if isinstance(source, str | Path) else source
        return chosen.load() if space is None else latency_table(chosen, space)

    @classmethod
    def from_measurements(
        cls,
        measurements: Iterable[Measurement],
        context: Context | None = None,
        name: str = "",
        in_order: bool = False,
    ) -> LatencyTable:
        """Makes a table from the measurements of one context.

        The most recent measurement of a part takes precedence. For parts timed inside nets, the cell is the mean over
        all measurements with the same kernels, each among other neighbours; those on a steady device are preferred.
        Whole nets are ignored. The overhead is the most recent measured empty call, else the overhead stored with the
        most recent part.

        Args:
            measurements: of parts; whole nets are ignored.
            context: which of them to use; others are left out. None requires that all agree.
            name: for messages; the target's name if empty.
            in_order: they are in the order they were made, as in a journal; otherwise their time stamps decide.

        Raises:
            LatencyError: there are none, or they disagree and no context says which to use.
        """
        usable = [item for item in measurements if item.part.part != NET]
        contexts = sorted({item.context for item in usable}, key=Context.describe)
        if context is None and len(contexts) > 1:
            protocols = ", ".join(sorted({item.protocol for item in contexts}))
            if len({replace(item, protocol="") for item in contexts}) == 1:
                raise LatencyError(f"measurements of different protocols must not be mixed: {protocols}")
            raise LatencyError(
                "measurements that must not be mixed: " + "; ".join(item.describe() for item in contexts)
            )
        chosen = [item for item in usable if context in (None, item.context)]
        if not in_order:
            chosen.sort(key=lambda item: item.time)
        if not any(item.part.part not in (OVERHEAD, CONVERSION) for item in chosen):
            there = f" (there are some of {'; '.join(item.describe() for item in contexts)})" if contexts else ""
            wanted = f" of {context.describe()}" if context else ""
            raise LatencyError(f"there are no measurements{wanted}{there}; tune the target first")
        by_part: dict[NetPart, list[Measurement]] = {}
        for item in chosen:
            if item.part.part != OVERHEAD:
                by_part.setdefault(item.part, []).append(item)
        all_cells = {part: cell_of(items) for part, items in by_part.items()}
        cells = {part: cell for part, cell in all_cells.items() if part.part != CONVERSION}
        conversions = {part: cell for part, cell in all_cells.items() if part.part == CONVERSION}
        calls = [item.latency_ms for item in chosen if item.part.part == OVERHEAD]
        overhead_ms, last = calls[-1] if calls else chosen[-1].overhead_ms, chosen[-1]
        batch = named_batch(last.target)[1]
        told: dict[str, Any] = {"context": last.context, "conversions": conversions, "batch": batch}
        return cls(cells, overhead_ms, name or last.target, **told)

    def missing(self, parts: Iterable[NetPart]) -> tuple[NetPart, ...]:
        """Those of ``parts`` that the table lacks, without repeats."""
        return tuple(dict.fromkeys(part for part in parts if part not in self.cells and not part.is_identity))

    def require(self, parts: Iterable[NetPart]) -> None:
        """Raises :class:`LatencyError` listing those of ``parts`` that are missing, if any."""
        missing = self.missing(parts)
        if missing:
            names = ", ".join(part.name for part in missing[:_LISTED])
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            raise LatencyError(
                f"latency table {self.name or '(unnamed)'} lacks {len(missing)} part(s): {names}{more}; "
                f"{self._why_no_head(missing)}add --predict-missing to have them predicted, or measure them as well"
            )

    def _why_no_head(self, missing: Iterable[NetPart]) -> str:
        """How a missing head differs from the table's heads; "" if it does not."""
        wanted = next((part for part in missing if part.part == HEAD_LINEAR), None)
        heads = sorted(part for part in self.cells if part.part == HEAD_LINEAR)
        if wanted is None:
            return ""
        if not heads:
            return "the table has no head, which depends on last_channels and classes; "
        pairs = (
            ("width (last_channels)", [part.cin for part in heads], wanted.cin),
            ("number of classes", [part.cout for part in heads], wanted.cout),
        )
        differences = [
            f"its {what} is {' or '.join(map(str, dict.fromkeys(there)))} in the table and {here} in the space"
            for what, there, here in pairs
            if here not in there
        ]
        return f"the head differs: {', '.join(differences)}; " if differences else ""

    def lookup(self, part: NetPart) -> Cell:
        """The cell of one part; :class:`LatencyError` if there is none (identity skips cost 0 then)."""
        self.require([part])
        return self.cells.get(part, NOTHING)

    def fill(self, predictor: Predictor, parts: Sequence[NetPart]) -> LatencyTable:
        """A new table with predictions for those of ``parts`` that are missing; existing cells stay."""
        missing = self.missing(parts)
        if not missing:
            return self
        latency, spread = predictor.predict(missing)
        predicted = {
            part: Cell(float(ms), float(deviation), PREDICTED)
            for part, ms, deviation in zip(missing, latency, spread, strict=True)
        }
        return replace(self, cells={**self.cells, **predicted})

    def matrix(self, space: Space) -> tuple[tuple[float, ...], ...]:
        """Latency in milliseconds of every candidate block of every layer.

        One row per layer and one value per candidate, in the order of :attr:`Layer.blocks`. Rows differ in length where
        layers have different numbers of candidates: nothing is padded, as what a caller would pad with depends on what
        it computes.

        Raises:
            LatencyError: parts are missing; lists them.
        """
        self.require(layer.cell(block) for layer in space.layers for block in layer.blocks)
        return tuple(
            tuple(self.lookup(layer.cell(block)).latency_ms for block in layer.blocks) for layer in space.layers
        )

    def fixed_ms(self, space: Space) -> float:
        """Latency that all archs of the space share: overhead, stem and head."""
        self.require(space.fixed_parts())
        return self.overhead_ms + sum(self.cells[part].latency_ms for part in space.fixed_parts())

    def arch_ms(self, arch: Arch, space: Space) -> float:
        """Predicted latency of a net; :class:`LatencyError` lists every part that is missing."""
        return self.overhead_ms + sum(cell.latency_ms for cell in self._cells_of(arch, space))

    @property
    def is_simulated(self) -> bool:
        """Whether its cells come from a model of a processor and not from a device; or were predicted from such."""
        cells = (*self.cells.values(), *self.conversions.values())
        return self.origin.simulated or any(cell.source == SIMULATED for cell in cells)

    @property
    def basis(self) -> TimedSource:
        """What predictions rest on, and the overhead counts as: ``measured`` or ``simulated``."""
        return SIMULATED if self.is_simulated else MEASURED

    def source_shares(self, arch: Arch, space: Space) -> dict[Source, float]:
        """Share (0 to 1) of each source in a net's predicted latency; the overhead counts as the table's basis."""
        total = self.arch_ms(arch, space)
        predicted = sum(cell.latency_ms for cell in self._cells_of(arch, space) if cell.source == PREDICTED)
        share = predicted / total if total > 0 else 0.0
        return {**dict.fromkeys(SOURCES, 0.0), PREDICTED: share, self.basis: 1.0 - share}

    def measured_share(self, arch: Arch, space: Space) -> float:
        """Share (0 to 1) of a net's predicted latency that rests on measured cells; 0 for a simulated table."""
        return self.source_shares(arch, space)[MEASURED]

    def range_ms(self, space: Space) -> tuple[float, float]:
        """Latency of the fastest and of the slowest arch of the space."""
        rows, fixed = self.matrix(space), self.fixed_ms(space)
        return fixed + sum(map(min, rows)), fixed + sum(map(max, rows))

    def to_records(self, parts: Iterable[NetPart]) -> list[dict[str, Any]]:
        """The cells of ``parts`` as plain data, for JSON: the part's fields and the cell's."""
        return [
            {"name": part.name, **part.to_dict(), **vars(self.lookup(part)), **self.energies.record(part)}
            for part in parts
        ]

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        overhead_ms: float,
        name: str,
        correction: str = "",
        origin: Mapping[str, Any] | None = None,
        dtype: str | None = None,
        call_energy: Mapping[str, Any] | None = None,
        batch: int | None = None,
    ) -> LatencyTable:
        """The table with the cells of :meth:`to_records`; ``origin`` as of :meth:`LatencyOrigin.to_dict`.

        ``call_energy`` is the :meth:`Energies.record` of a call.
        """
        fields, records = vars(NOTHING), list(records)  # fields that an older record lacks keep their defaults
        cells = {
            NetPart.from_dict(record): Cell(**{name: record[name] for name in fields if name in record})
            for record in records
        }
        made_by = LatencyOrigin(**(origin or {}))
        called = [] if call_energy is None else [{**OVERHEAD_PART.to_dict(), **call_energy}]
        energies = Energies.from_records([*records, *called])
        told: dict[str, Any] = {
            "origin": made_by,
            "stated_dtype": dtype or "",
            "energies": energies,
            "batch": batch or 1,
        }
        return cls(cells, overhead_ms, name, correction, **told)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> LatencyTable:
        """The table of the content of a run's ``table.json``."""
        first = (values["cells"], values["overhead_ms"], values["target"])
        more: dict[str, Any] = {name: values.get(name) for name in ("origin", "dtype", "call_energy", "batch")}
        return cls.from_records(*first, values.get("correction", ""), **more)

    def arch_energy(self, arch: Arch, space: Space) -> tuple[float, float] | None:
        """Energy of one inference of a net and one standard deviation, mJ; None where the table lacks a part's."""
        return self.energies.total([*space.fixed_parts(), *(part for _, part in space.cells_of(arch))])

    def _cells_of(self, arch: Arch, space: Space) -> list[Cell]:
        parts = [*space.fixed_parts(), *(part for _, part in space.cells_of(arch))]
        self.require(parts)
        return [self.lookup(part) for part in parts]
