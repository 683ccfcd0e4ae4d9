"""What tuning knows of every part before one of them is timed: what its kernels take by themselves.

Tuning times each kernel in a loop. The sum over a part's kernels is not the part's latency (in a net, caches hold other
things), but it is far closer to it than anything that follows from the part's shape. So where a part was tuned but not
timed, the regressor starts from this sum instead of its physical base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmfbnet.errors import LatencyError
from tvmfbnet.files import write_json
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.lines import UNREADABLE
from tvmfbnet.latency.roofline import Base
from tvmfbnet.progress import say
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SCHEMA_VERSION = 2
# How far sums of kernels may be off by a common factor, as a deviation of logarithms.
_COMMON = 0.3


@dataclass(frozen=True)
class KernelBase:
    """A base model that knows the kernels' times of the parts it is asked about.

    Attributes:
        physical: the base that needs no times; it still says in which conv of a part the time goes.
        kernel_ms: summed milliseconds of each part's kernels.
    """

    physical: Base
    kernel_ms: Mapping[NetPart, float]

    def log_ms(self, parts: Sequence[NetPart]) -> Array:
        """Logarithm of each part's sum of kernels: (parts,); :class:`LatencyError` for one that was not tuned."""
        lacking = [part.name for part in parts if part not in self.kernel_ms]
        if lacking:
            raise LatencyError(f"the times of the kernels of {', '.join(lacking)} are not known; tune them first")
        return np.log([self.kernel_ms[part] for part in parts])

    def log_shares(self, parts: Sequence[NetPart]) -> Array:
        """As the physical base's."""
        return self.physical.log_shares(parts)

    def doubt(self, parts: Sequence[NetPart]) -> Array:
        """Covariance of the log latencies before anything was timed: a common factor is open; (parts, parts)."""
        return np.full((len(parts), len(parts)), _COMMON**2)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"physical": self.physical.to_dict(), "kernels": to_records(self.kernel_ms)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> KernelBase:
        """What :meth:`to_dict` gave; KeyError, TypeError or ValueError on other data."""
        return cls(Base.from_dict(value["physical"]), from_records(value["kernels"]))


def if_complete(kernel_ms: Mapping[NetPart, float] | None, parts: Sequence[NetPart]) -> Mapping[NetPart, float] | None:
    """The kernels' times, if those of all ``parts`` are among them."""
    known = kernel_ms or {}
    return kernel_ms if all(part in known for part in parts if not part.is_identity) else None


def to_records(kernel_ms: Mapping[NetPart, float]) -> list[dict[str, Any]]:
    """As plain data: each part's fields and its ``kernel_ms``."""
    return [{**part.to_dict(), "kernel_ms": ms} for part, ms in kernel_ms.items()]


def from_records(records: Sequence[Mapping[str, Any]]) -> dict[NetPart, float]:
    """What :func:`to_records` gave; KeyError, TypeError or ValueError on other data."""
    return {NetPart.from_dict(record): float(record["kernel_ms"]) for record in records}


def remember(path: Path, context: Context, kernel_ms: Mapping[NetPart, float]) -> None:
    """Adds the times of some parts to a target's file; those of other contexts stay. The target's lock must be held."""
    stored = _stored(path)
    merged = {**recall(path, context), **kernel_ms}
    stored[context.key] = {"context": context.to_dict(), "parts": to_records(merged)}
    write_json(path, {"schema_version": SCHEMA_VERSION, "contexts": stored})


def recall(path: Path, context: Context) -> dict[NetPart, float]:
    """The times that a target's file holds for a context; nothing where there are none or they are of another form."""
    found = _stored(path).get(context.key)
    try:
        if found is None or found["context"] != context.to_dict():
            return {}
        times = from_records(found["parts"])
    except UNREADABLE:
        return {}
    return {part: ms for part, ms in times.items() if math.isfinite(ms) and ms > 0}


def _stored(path: Path) -> dict[str, Any]:
    """Of every context, by key, what the file holds; nothing where it is missing or damaged: tuning makes it anew."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
        return dict(value["contexts"]) if value["schema_version"] == SCHEMA_VERSION else {}
    except (OSError, *UNREADABLE):
        say(f"warning: {path} is damaged and is not used; the next tuning makes it anew")
        return {}
