"""One timed latency with its provenance: the unit of the journal.

A measurement says what was timed (a :class:`~tvmfbnet.space.space.NetPart`), how long it took (milliseconds, as the
spread over repeats) and everything needed to judge later whether it may be compared with another one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from tvmfbnet.config import Config
from tvmfbnet.errors import LatencyError
from tvmfbnet.space.space import NetPart, Space

SCHEMA_VERSION = 3

NET, OVERHEAD = "net", "overhead"

# How a part was timed: alone, call after call; going around copies of its weights; or inside nets, between two readings
# of a clock.
ISOLATED, ROTATING, IN_NET = "isolated", "rotating", "in_net"

# The cost of calling the device's runtime with nothing to compute: paid once a call, by a block alone as by a net.
OVERHEAD_PART = NetPart(OVERHEAD, "call", 1, 1, 1, 1, 1)


def net_part(space: Space) -> NetPart:
    """The part that stands for a whole net of ``space``; which net, the measurement's ``arch`` says."""
    return NetPart(NET, NET, space.input_channels, space.classes, space.height, space.width, 1)


@dataclass(frozen=True, order=True)
class Context:
    """What must be equal for two measurements to belong in one table."""

    target: str
    tvm_version: str
    tvm_target: str
    threads: int
    dtype: str
    layout: str

    def describe(self) -> str:
        """One phrase for messages."""
        return (
            f"{self.target}: TVM {self.tvm_version}, {self.threads} thread(s), {self.dtype}, {self.layout}, "
            f"target {self.tvm_target}"
        )


def migrate(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of any older version in today's form; others come back as they are, for validation to judge.

    Version 1 did not always say how a part was timed; where it does not, the part was timed alone, call after call.
    Version 2 knew no pace.
    """
    migrated = dict(record)
    if migrated.get("schema_version") == 1:
        migrated = {"protocol": ISOLATED, **migrated, "schema_version": 2}
    if migrated.get("schema_version") == 2:
        migrated = {**migrated, "schema_version": 3}
    return migrated


Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Measurement(Config):
    """The timed latency of one part (or whole net) on one device. All times in milliseconds.

    Attributes:
        schema_version: version of this record's form.
        target: name of the target.
        part: what was timed.
        latency_ms: the figure to use: median over repeats, call overhead still included.
        mean_ms: mean over repeats.
        std_ms: standard deviation over repeats.
        min_ms: fastest repeat.
        p10_ms: 10th percentile.
        p50_ms: median.
        p90_ms: 90th percentile.
        n: timed repeats.
        trials: schedule candidates that tuning had spent on the part's kernels.
        tvm_version: of the TVM that compiled it.
        tvm_target: full TVM target as canonical JSON.
        threads: threads the device ran it with.
        dtype: of weights and activations.
        layout: of the activations inside.
        protocol: how it was timed; ``isolated`` is a part alone, call after call; ``rotating`` goes around copies of
            its weights, so that they arrive as in a net; ``in_net`` is between two readings of a clock inside a net.
        overhead_ms: the device's cost of one empty call at that time; subtract it to get the part's share of a net.
        fingerprint: device model, cores, governor, temperatures and what else is readable.
        canary_ratio: time of a fixed canary kernel afterwards against its time at the start; None where there is none.
        steady: whether the canary kept its speed in the end.
        tries: how often the part was timed until it did.
        outliers: repeats left out because something else on the device disturbed them.
        pace: for whole nets: how long the blocks of some of them, timed meanwhile, took inside nets, relative to the
            latency table; 1.08 is a device that had become 8 % slower. None where that is unknown.
        arch: canonical arch string; for whole nets only.
        space: name of the space of ``arch``; for whole nets only.
        time: when, ISO 8601, UTC.
    """

    schema_version: Literal[3] = 3
    target: str
    part: NetPart
    latency_ms: Milliseconds
    mean_ms: Milliseconds
    std_ms: Milliseconds
    min_ms: Milliseconds
    p10_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    n: Annotated[int, Field(ge=1)]
    trials: Annotated[int, Field(ge=0)]
    tvm_version: str
    tvm_target: str
    threads: Annotated[int, Field(ge=1)]
    dtype: str
    layout: str
    protocol: str = ISOLATED
    overhead_ms: Milliseconds = 0.0
    fingerprint: dict[str, Any] = Field(default_factory=dict)
    canary_ratio: Annotated[float, Field(allow_inf_nan=False)] | None = None
    steady: bool = True
    tries: Annotated[int, Field(ge=1)] = 1
    outliers: Annotated[int, Field(ge=0)] = 0
    pace: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    arch: str | None = None
    space: str | None = None
    time: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @property
    def context(self) -> Context:
        """What it may be mixed with."""
        return Context(self.target, self.tvm_version, self.tvm_target, self.threads, self.dtype, self.layout)

    @property
    def net_ms(self) -> float:
        """The part's share of a net's latency: the call overhead taken off, never below 0."""
        return max(self.latency_ms - self.overhead_ms, 0.0)

    @property
    def at_table_pace_ms(self) -> float:
        """The latency of a whole net as it would have been when the table's blocks were timed."""
        return self.latency_ms / (self.pace or 1.0)


def summarise(samples_ms: Sequence[float]) -> dict[str, float | int]:
    """The statistics fields of a :class:`Measurement` from the latencies of its repeats (milliseconds).

    Percentiles interpolate linearly between repeats.

    Raises:
        LatencyError: there are no samples.
    """
    if not samples_ms:
        raise LatencyError("no timed repeats came back from the device")
    ordered = sorted(samples_ms)
    return {
        "latency_ms": _quantile(ordered, 0.5),
        "mean_ms": statistics.fmean(ordered),
        "std_ms": statistics.pstdev(ordered),
        "min_ms": ordered[0],
        "p10_ms": _quantile(ordered, 0.1),
        "p50_ms": _quantile(ordered, 0.5),
        "p90_ms": _quantile(ordered, 0.9),
        "n": len(ordered),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
