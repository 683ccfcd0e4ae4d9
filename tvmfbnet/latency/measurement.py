"""One timed latency with its provenance: the unit of the journal.

A measurement says what was timed (a :class:`~tvmfbnet.space.space.NetPart`), its latency over repeats in milliseconds,
and everything needed to judge later whether it may be compared with another one.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tvmfbnet.config import Config
from tvmfbnet.errors import LatencyError
from tvmfbnet.files import digest
from tvmfbnet.latency.context import Context as Context
from tvmfbnet.latency.context import reported
from tvmfbnet.latency.origin import MEASURED, TimedSource
from tvmfbnet.space.space import NetPart, Space

SCHEMA_VERSION = 4

NET, OVERHEAD = "net", "overhead"

# How a part was timed: alone, call after call; alone, rotating through copies of its weights; or inside nets, between
# two clock readings.
ISOLATED, ROTATING, IN_NET = "isolated", "rotating", "in_net"

# The cost of calling the device's runtime with nothing to compute: paid once per call, by a block alone as by a net.
OVERHEAD_PART = NetPart(OVERHEAD, "call", 1, 1, 1, 1, 1)


def net_part(space: Space) -> NetPart:
    """The part that stands for a whole net of ``space``; which net, the measurement's ``arch`` says."""
    return NetPart(NET, NET, space.input_channels, space.classes, space.height, space.width, 1)


def migrate(record: Mapping[str, Any]) -> dict[str, Any]:
    """Upgrades a record of an older version; others are returned as they are and left to validation.

    Version 1 did not always say how a part was timed; if it does not, the part was timed alone, call after call.
    Version 2 had no speed factor. Version 3 identified the device by its fingerprint alone and did not store which
    cores the target asked for: none are assumed, and as the fingerprint has the cores in force, such a record matches a
    current context only if every fact is there and equal. It identified spaces by name, so its whole nets belong to no
    space.
    """
    migrated = dict(record)
    if migrated.get("schema_version") == 1:
        migrated = {"protocol": ISOLATED, **migrated, "schema_version": 2}
    if migrated.get("schema_version") == 2:
        migrated = {**migrated, "schema_version": 3}
    if migrated.get("schema_version") == 3:
        migrated = {**migrated, **_context_of_version_3(migrated), "schema_version": 4}
    return migrated


def _context_of_version_3(record: Mapping[str, Any]) -> dict[str, Any]:
    """The context fields that version 3 lacked, as far as its fingerprint proves them."""
    fingerprint = record.get("fingerprint")
    facts = fingerprint if isinstance(fingerprint, dict) else {}
    added = {"ffi_version": str(facts.get("ffi_version") or ""), **reported(facts)}
    try:
        tvm_target = json.loads(str(record.get("tvm_target")))
    except (ValueError, RecursionError):
        tvm_target = None
    kind = tvm_target.get("kind") if isinstance(tvm_target, dict) else None
    if kind not in ("llvm", "opencl", "metal"):
        return {**added, "target_key": ""}
    # As `tvmfbnet.targets.definition.target_key` computes it for a target that asks for no cores.
    identity = {
        "tvm": tvm_target,
        "device": "cpu" if kind == "llvm" else kind,
        "threads": record.get("threads"),
        "cores": [],
        "dtype": record.get("dtype"),
        "layout": record.get("layout"),
        "emulator": [],
    }
    return {**added, "target_key": digest(identity)}


# No timed latency exceeds eleven days.
_MOST_MS = 1e9
# No net has more channels or pixels per side.
_LARGEST = 1 << 24
Milliseconds = Annotated[float, Field(ge=0, le=_MOST_MS, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class Measurement(Config):
    """The timed latency of one part (or whole net) on one device. All times in milliseconds.

    Attributes:
        schema_version: version of this record's form.
        source: ``measured``, or ``simulated`` on a device whose clock is a model. Journals say only the latter: a
            record without it was measured.
        target: name of the target.
        part: what was timed.
        latency_ms: the value to use: median over repeats, call overhead included.
        mean_ms: mean over repeats.
        std_ms: standard deviation over repeats.
        min_ms: fastest repeat.
        p10_ms: 10th percentile.
        p50_ms: median.
        p90_ms: 90th percentile.
        n: timed repeats.
        trials: tuning trials spent on the part's kernels.
        target_key: of the resolved target; "" if unknown.
        tvm_version: of the TVM that compiled it.
        ffi_version: of its foreign function interface; "" if unknown.
        tvm_target: full TVM target as canonical JSON.
        device_model: as reported by the device; "" if it was not.
        device_threads: threads in force there; 0 if not reported.
        device_cores: cores in force there, such as ``0-3``; "" if not reported.
        threads: threads that the target asks for.
        dtype: of weights and activations.
        layout: of the activations inside.
        protocol: how it was timed; ``isolated`` is a part alone, call after call; ``rotating`` rotates through copies
            of its weights, so that they are as cold as in a net; ``in_net`` is between two clock readings in a net.
        overhead_ms: the device's cost of one empty call at that time; subtract it to get the part's share of a net.
        fingerprint: device model, cores, governor, temperatures and whatever else is readable.
        canary_ratio: latency of a fixed canary kernel relative to its reference; None if there was no canary.
        steady: whether the canary kept its speed in the last try.
        tries: how often the part was timed until it did.
        outliers: repeats rejected because background load disturbed them.
        pace: for whole nets: the device's speed factor, from blocks timed in nets meanwhile, relative to the latency
            table; 1.08 is a device that became 8 % slower. None if unknown.
        arch: canonical arch string; for whole nets only.
        space: name of the space of ``arch``; for whole nets only.
        space_key: of that space's content (:func:`tvmfbnet.space.space.content_key`); for whole nets only.
        time: when, ISO 8601, UTC.
    """

    schema_version: Literal[4] = 4
    source: TimedSource = MEASURED
    target: str
    part: NetPart
    latency_ms: Milliseconds
    mean_ms: Milliseconds
    std_ms: Milliseconds
    min_ms: Milliseconds
    p10_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    n: Annotated[int, Field(ge=1, lt=1 << 53)]
    trials: Count
    target_key: str = ""
    tvm_version: str
    ffi_version: str = ""
    tvm_target: str
    device_model: str = ""
    device_threads: Count = 0
    device_cores: str = ""
    threads: Annotated[int, Field(ge=1, lt=1 << 53)]
    dtype: str
    layout: str
    protocol: str = ISOLATED
    overhead_ms: Milliseconds = 0.0
    fingerprint: dict[str, Any] = Field(default_factory=dict)
    canary_ratio: Annotated[float, Field(ge=0, le=_MOST_MS, allow_inf_nan=False)] | None = None
    steady: bool = True
    tries: Annotated[int, Field(ge=1, lt=1 << 53)] = 1
    outliers: Count = 0
    pace: Annotated[float, Field(gt=0, le=_MOST_MS, allow_inf_nan=False)] | None = None
    arch: str | None = None
    space: str | None = None
    space_key: str | None = None
    time: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @field_validator("part")
    @classmethod
    def _possible_sizes(cls, part: NetPart) -> NetPart:
        sizes = (part.cin, part.cout, part.height, part.width, part.stride)
        if not all(0 < size <= _LARGEST for size in sizes):
            raise ValueError(f"channels, sizes and strides are from 1 to {_LARGEST}")
        return part

    def to_line(self) -> bytes:
        """As one line of a journal. What was measured does not say so: its lines stay as they always were."""
        excluded = {"source"} if self.source == MEASURED else set()
        return self.model_dump_json(exclude=excluded, fallback=str).encode() + b"\n"

    @property
    def context(self) -> Context:
        """What it shares with measurements it may be mixed with."""
        return Context(**{field.name: getattr(self, field.name) for field in fields(Context)})

    @property
    def net_ms(self) -> float:
        """The part's share of a net's latency: the call overhead subtracted, never below 0."""
        return max(self.latency_ms - self.overhead_ms, 0.0)

    @property
    def at_table_speed_ms(self) -> float:
        """The latency of a whole net at the device's speed of the table: divided by the speed factor."""
        return self.latency_ms / (self.pace or 1.0)


def summarise(samples_ms: Sequence[float]) -> dict[str, float | int]:
    """The statistics fields of a :class:`Measurement` from the latencies of its repeats (milliseconds).

    Percentiles interpolate linearly between repeats.

    Raises:
        LatencyError: there are no samples, or they are not run times.
    """
    if not samples_ms:
        raise LatencyError("no timed repeats came back from the device")
    if not all(math.isfinite(sample) and sample >= 0 for sample in samples_ms):
        raise LatencyError("the device reported invalid run times (negative or not a number)")
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
