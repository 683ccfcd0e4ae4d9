"""Energies of parts, in millijoules of one inference: in a latency table beside its latencies, and as they are stored.

The energy of a part is its share of a net's, as its latency is: above what the idle device takes, and without what the
call of a net takes, which is an energy of its own (of :data:`OVERHEAD_PART`) and counted once per net. All energies of
a table were told by one source, such as ``rapl``; another may count other parts of the device. Nothing is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tvmfbnet.config import Config
from tvmfbnet.latency.cells import MEASURED, Cell
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import JournalOf
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.progress import say
from tvmfbnet.space.space import NetPart

FILE = "energy.jsonl"
COLUMNS = ("energy_mj", "energy_spread_mj", "energy_source")
_MOST_MJ = 1e9
_Energy = Annotated[float, Field(ge=0, le=_MOST_MJ, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=1 << 53)]


@dataclass(frozen=True)
class Energies:
    """The energies of a latency table.

    Attributes:
        by_part: millijoules of each part and one standard deviation; of the call under ``OVERHEAD_PART``.
        source: what told them; empty where a file does not say.
    """

    by_part: Mapping[NetPart, tuple[float, float]] = field(default_factory=dict)
    source: str = ""

    def __bool__(self) -> bool:
        return bool(self.by_part)

    def missing(self, parts: Iterable[NetPart]) -> list[NetPart]:
        """Those of ``parts`` that have none; an identity skip, which computes nothing, needs none."""
        return [part for part in parts if part not in self.by_part and not part.is_identity]

    def of(self, part: NetPart) -> tuple[float, float]:
        """Millijoules of a part and one standard deviation; none of what has none."""
        return self.by_part.get(part, (0.0, 0.0))

    @property
    def call(self) -> tuple[float, float]:
        """What calling a net takes, once per net."""
        return self.of(OVERHEAD_PART)

    def total(self, parts: Iterable[NetPart]) -> tuple[float, float] | None:
        """Energy of a net of ``parts`` and one standard deviation; None where one of them has none."""
        parts = list(parts)
        if not self.by_part or self.missing(parts):
            return None
        values = [self.call, *map(self.of, parts)]
        return sum(energy for energy, _ in values), math.sqrt(sum(spread**2 for _, spread in values))

    def record(self, part: NetPart) -> dict[str, Any]:
        """A part's energy as the columns of a table; nothing for a table without energies."""
        if not self.by_part:
            return {}
        energy, spread = self.by_part.get(part, (None, None))
        named = {} if not self.source else {"energy_source": None if energy is None else self.source}
        return {"energy_mj": energy, "energy_spread_mj": spread, **named}

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Energies:
        """The energies of :meth:`record` in the rows of a table; ValueError where several sources told them."""
        rows = [record for record in records if record.get("energy_mj") is not None]
        sources = list(dict.fromkeys(record.get("energy_source") or "" for record in rows))
        if len(sources) > 1:
            there = ", ".join(repr(source[:40]) if source else "none" for source in sources[:4])
            raise ValueError(f"energies of different sources ({there}); keep one table for each")
        by_part = {
            NetPart.from_dict(record): (float(record["energy_mj"]), float(record.get("energy_spread_mj") or 0.0))
            for record in rows
        }
        return cls(by_part, sources[0] if sources else "")


class EnergyMeasurement(Config):
    """The measured energy of one part, a line of ``energy.jsonl``.

    Attributes:
        schema_version: version of this record's form.
        context: what it shares with the latencies it belongs beside.
        part: what ran; ``OVERHEAD_PART`` for an empty call.
        trials: tuning trials spent on the part's kernels.
        energy_mj: of the part alone, above idle.
        spread_mj: one standard deviation over the rounds.
        loop_mj: of one call of what ran, above idle: of ``copies`` times the part, and the call.
        call_mj: of an empty call, which was taken off.
        copies: how often a call computes the part, each time with other weights.
        latency_ms: of one call of what ran.
        idle_watts: what the idle device takes.
        source: what told the energy.
        rounds: how many rounds of idling and running.
        inferences: calls in all of them together.
        time: when, ISO 8601, UTC.
    """

    schema_version: Literal[1] = 1
    context: Context
    part: NetPart
    trials: _Count = 0
    energy_mj: _Energy
    spread_mj: _Energy
    loop_mj: _Energy
    call_mj: _Energy = 0.0
    copies: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    latency_ms: _Energy
    idle_watts: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
    source: str = Field(min_length=1, max_length=10_000)
    rounds: _Count
    inferences: _Count
    time: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def to_line(self) -> bytes:
        """As one line of a journal."""
        return self.model_dump_json().encode() + b"\n"


def energy_journal(journal: Path) -> JournalOf[EnergyMeasurement]:
    """The energies of a target, beside the journal of its latencies."""
    return JournalOf(journal.with_name(FILE), EnergyMeasurement, "valid measurement of energy", newest=1)


def measured_energies(
    journal: Path, context: Context, cells: Mapping[NetPart, Cell], source: str | None = None
) -> Energies:
    """The energies that belong beside the latencies of one context.

    The most recent one of a part takes precedence. One of kernels that were tuned further since does not count, nor
    one that another source told.

    Args:
        journal: of the latencies; the energies lie beside it.
        context: of the latencies.
        cells: the latencies.
        source: only what it told; None for the source that was read last, and a note names the others.
    """
    recorded = [item for item in energy_journal(journal).read() if item.context == context]
    if not recorded:
        return Energies()
    chosen = recorded[-1].source if source is None else source
    others = dict.fromkeys(item.source for item in recorded if item.source != chosen)
    if others and source is None:
        say(f"note: {journal.with_name(FILE)} has energies of {', '.join(others)} as well; those of {chosen} are used")
    by_part = {item.part: (item.energy_mj, item.spread_mj) for item in recorded if item.source == chosen}
    trials = {item.part: item.trials for item in recorded if item.source == chosen}
    stale = [
        part
        for part in by_part
        if part in cells and cells[part].source == MEASURED and cells[part].trials != trials[part]
    ]
    return Energies({part: energy for part, energy in by_part.items() if part not in stale}, chosen)
