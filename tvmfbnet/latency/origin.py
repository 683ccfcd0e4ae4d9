"""Where the latencies of a table come from: one value that goes with them into ``search.json``, packages and reports.

A cell says whether it was measured, predicted or simulated; an origin says by whom. A net that was found on simulated
latencies says so wherever it is shown, since no device ever took them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

OriginKind = Literal["target", "mixed", "import", "file", "simulated", "unknown"]
# What a verdict adds where the net's latency was simulated when the net was chosen.
CHOSEN_ON_SIMULATED = "the net was chosen on simulated latencies, which no device took"


@dataclass(frozen=True)
class LatencyOrigin:
    """Where the latencies of a table come from.

    Attributes:
        kind: measured on a ``target``, in one dtype or ``mixed``, an ``import`` under a target's name, a table's
            ``file``, or a ``simulated`` processor; ``unknown`` for a table that a program made.
        name: of the target, the file or the processor.
        simulated: whether they were computed by a model of a processor; a file's may be, too.
    """

    kind: OriginKind = "unknown"
    name: str = ""
    simulated: bool = False

    @property
    def word(self) -> str:
        """What a net's latency is called that follows from these: ``simulated``, else ``predicted``."""
        return "simulated" if self.simulated else "predicted"

    def describe(self) -> str:
        """For people: ``measured on host``, ``file pixel3.csv``, ``simulated:a_core (a model, no device)``."""
        if self.kind == "simulated":
            return f"{self.name} (a model, no device)"
        words = {
            "target": "measured on ",
            "mixed": "measured in float32 and int8 on ",
            "import": "imported for ",
            "file": "file ",
            "unknown": "not stated",
        }
        return f"{words[self.kind]}{self.name}" + (", simulated (a model, no device)" if self.simulated else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


# Of a table that does not say.
UNKNOWN = LatencyOrigin()
