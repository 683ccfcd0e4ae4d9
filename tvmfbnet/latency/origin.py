"""Where latencies come from: the words for it, and one value that goes into ``search.json``, packages and reports.

A latency says whether it was measured, predicted or simulated; an origin says by whom. A net that was found on
simulated latencies says so wherever it is shown, since no device ever took them. So does one that was timed on a
simulated device: its latency is exact, but a model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Source = Literal["measured", "predicted", "simulated"]
MEASURED: Literal["measured"] = "measured"
PREDICTED: Literal["predicted"] = "predicted"
SIMULATED: Literal["simulated"] = "simulated"
SOURCES: tuple[Source, ...] = (MEASURED, PREDICTED, SIMULATED)
# What timing on a device can give: a simulated device has a model for its clock.
TimedSource = Literal["measured", "simulated"]
# Said beside every simulated figure.
NO_DEVICE = "a model, no device"

OriginKind = Literal["target", "mixed", "import", "file", "simulated", "unknown"]
# What a verdict adds where the net's latency was simulated when the net was chosen.
CHOSEN_ON_SIMULATED = "the net was chosen on simulated latencies, which no device took"


@dataclass(frozen=True)
class LatencyOrigin:
    """Where the latencies of a table come from.

    Attributes:
        kind: timed on a ``target``, in one dtype or ``mixed``, an ``import`` under a target's name, a table's
            ``file``, or a ``simulated`` processor; ``unknown`` for a table that a program made.
        name: of the target, the file or the processor.
        simulated: whether they were computed by a model of a processor; a target's and a file's may be, too.
    """

    kind: OriginKind = "unknown"
    name: str = ""
    simulated: bool = False

    @property
    def word(self) -> str:
        """What a net's latency is called that follows from these: ``simulated``, else ``predicted``."""
        return "simulated" if self.simulated else "predicted"

    def describe(self) -> str:
        """For people: ``measured on host``, ``file pixel3.csv``, ``simulated on sim_a76 (a model, no device)``."""
        if self.kind == "simulated":
            return f"{self.name} ({NO_DEVICE})"
        if self.simulated and self.kind in ("target", "mixed"):
            dtypes = "in float32 and int8 " if self.kind == "mixed" else ""
            return f"simulated {dtypes}on {self.name} ({NO_DEVICE})"
        words = {
            "target": "measured on ",
            "mixed": "measured in float32 and int8 on ",
            "import": "imported for ",
            "file": "file ",
            "unknown": "not stated",
        }
        return f"{words[self.kind]}{self.name}" + (f", simulated ({NO_DEVICE})" if self.simulated else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def timed_latency(source: TimedSource, latency_ms: float | None) -> dict[str, Any]:
    """A latency for records: ``measured_ms`` where a device took it; else null, with ``simulated_ms`` beside it."""
    return {"measured_ms": latency_ms} if source == MEASURED else {"measured_ms": None, "simulated_ms": latency_ms}


def timed_of(record: Mapping[str, Any]) -> tuple[TimedSource, float | None]:
    """Inverse of :func:`timed_latency`: what a record's latency is, and the latency in milliseconds, if it has one."""
    if record.get("simulated_ms") is not None:
        return SIMULATED, float(record["simulated_ms"])
    return MEASURED, record.get("measured_ms")


# Of a table that does not say.
UNKNOWN = LatencyOrigin()
