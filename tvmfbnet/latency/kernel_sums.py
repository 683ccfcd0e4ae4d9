"""Kernel times: what tuning knows about a part's latency before the part is timed.

Tuning times each kernel in a loop. The sum over a part's kernels is not the part's latency (in a net, caches hold other
data), but it is a far better predictor than the part's shape. So for a part that was tuned but not timed, the regressor
starts from this sum instead of its physical base. Where the sums come from: :mod:`tvmfbnet.latency.kernel_map`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.roofline import Base
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

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
