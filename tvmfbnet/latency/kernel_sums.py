"""Kernel times: what tuning knows about a part's latency before the part is timed.

Tuning times each kernel in a loop. The sum over a part's kernels is not the part's latency (in a net, caches hold other
data), but it is a far better predictor than the part's shape. So for a part that was tuned but not timed, the regressor
starts from this sum instead of its physical base.
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
# Prior standard deviation, in logarithms, of the common factor between kernel sums and latencies.
_COMMON = 0.3


@dataclass(frozen=True)
class KernelBase:
    """A base model for parts with known kernel times.

    Attributes:
        physical: the base that needs no times; it still gives each conv's share of a part's latency.
        kernel_ms: summed milliseconds of each part's kernels.
    """

    physical: Base
    kernel_ms: Mapping[NetPart, float]

    def log_ms(self, parts: Sequence[NetPart]) -> Array:
        """Logarithm of each part's kernel sum: (parts,); :class:`LatencyError` for a part that was not tuned."""
        untuned = [part.name for part in parts if part not in self.kernel_ms]
        if untuned:
            raise LatencyError(f"the kernel times of {', '.join(untuned)} are unknown; tune them first")
        return np.log([self.kernel_ms[part] for part in parts])

    def log_shares(self, parts: Sequence[NetPart]) -> Array:
        """Those of the physical base."""
        return self.physical.log_shares(parts)

    def prior_covariance(self, parts: Sequence[NetPart]) -> Array:
        """Covariance of the log latencies before any measurement, from the unknown common factor: (parts, parts)."""
        return np.full((len(parts), len(parts)), _COMMON**2)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"physical": self.physical.to_dict(), "kernels": to_records(self.kernel_ms)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> KernelBase:
        """What :meth:`to_dict` gave; KeyError, TypeError or ValueError on other data."""
        return cls(Base.from_dict(value["physical"]), from_records(value["kernels"]))


def if_complete(kernel_ms: Mapping[NetPart, float] | None, parts: Sequence[NetPart]) -> Mapping[NetPart, float] | None:
    """The kernel times if they cover all of ``parts``, else None."""
    times = kernel_ms or {}
    return kernel_ms if all(part in times for part in parts if not part.is_identity) else None


def to_records(kernel_ms: Mapping[NetPart, float]) -> list[dict[str, Any]]:
    """As plain data: each part's fields and its ``kernel_ms``."""
    return [{**part.to_dict(), "kernel_ms": ms} for part, ms in kernel_ms.items()]


def from_records(records: Sequence[Mapping[str, Any]]) -> dict[NetPart, float]:
    """What :func:`to_records` gave; KeyError, TypeError or ValueError on other data."""
    return {NetPart.from_dict(record): float(record["kernel_ms"]) for record in records}


def save_kernel_times(path: Path, context: Context, kernel_ms: Mapping[NetPart, float]) -> None:
    """Merges kernel times into a target's file, which keeps other contexts' times. The target's lock must be held."""
    stored = _stored(path)
    merged = {**load_kernel_times(path, context), **kernel_ms}
    stored[context.key] = {"context": context.to_dict(), "parts": to_records(merged)}
    write_json(path, {"schema_version": SCHEMA_VERSION, "contexts": stored})


def load_kernel_times(path: Path, context: Context) -> dict[NetPart, float]:
    """The kernel times in a target's file for a context; empty if there are none or the form is unknown."""
    entry = _stored(path).get(context.key)
    try:
        if entry is None or entry["context"] != context.to_dict():
            return {}
        times = from_records(entry["parts"])
    except UNREADABLE:
        return {}
    return {part: ms for part, ms in times.items() if math.isfinite(ms) and ms > 0}


def _stored(path: Path) -> dict[str, Any]:
    """The file's entries by context key; empty if it is missing or damaged, as the next tuning writes it again."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
        return dict(value["contexts"]) if value["schema_version"] == SCHEMA_VERSION else {}
    except (OSError, *UNREADABLE):
        say(f"warning: {path} is damaged and is not used; the next tuning writes it again")
        return {}
