"""Synthetic measurements for tests; the figures are chosen, the records are what a device session would write."""

import json
from collections.abc import Mapping
from pathlib import Path

from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.kernel_map import save_kernels
from tvmfbnet.latency.measurement import OVERHEAD_PART, Measurement, summarise
from tvmfbnet.latency.repository import journal_path
from tvmfbnet.space.borders import conversions_of
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

CONTEXT = Context(
    target="host",
    target_key="0123456789abcdef",
    tvm_version="0.27.0",
    ffi_version="0.1.14",
    tvm_target='{"kind": "llvm"}',
    threads=2,
    dtype="float32",
    layout="NHWC",
    protocol="isolated",
    device_model="Some CPU",
    device_threads=2,
    device_cores="0-1",
)

PART = NetPart("block", "k3_e6", 64, 64, 14, 14, 1)

# Real device tables, kept beside the checkout and never copied into it.
DEVICE_TABLES = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def measurement(part: NetPart = PART, latency_ms: float = 1.5, **changes: object) -> Measurement:
    fields: dict[str, object] = {
        **CONTEXT.to_dict(),
        "part": part,
        "trials": 64,
        "protocol": "isolated",
        "overhead_ms": 0.25,
        "fingerprint": {"model": "Some CPU", "cores": 2, "temperature": None},
        **summarise([latency_ms * factor for factor in (0.98, 1.0, 1.05)]),
    }
    return Measurement.model_validate({**fields, **changes})


def measured_space(name: str = "fbnet_mini", every: int = 1) -> list[Measurement]:
    """A space measured on a machine that does a million MACs in 0.1 ms; only each ``every``-th block is there."""
    space = load_space(name)
    parts = [*space.fixed_parts(), *space.distinct_blocks()[::every]]
    return [
        measurement(OVERHEAD_PART, 0.2, overhead_ms=0),
        *(measurement(part, 0.3 + count_part(part).macs / 1e7, overhead_ms=0.2) for part in parts),
    ]


def measured_in_both(
    target: str,
    logs: Path,
    every: int = 1,
    pays: bool = True,
    more: Mapping[NetPart, tuple[float, float]] | None = None,
) -> None:
    """The journal of a target that was measured in float32 and int8, conversions of 0.01 ms included.

    int8 takes 0.6 of float32's time for blocks without groups, and twice as long for all else.

    Args:
        target: its name in the journal's path.
        logs: folder of all targets.
        every: only each ``every``-th block is there.
        pays: whether int8 is faster anywhere.
        more: parts and what they take in float32 and int8, in milliseconds, with a call's overhead of 0.2 ms.
    """
    records = Journal(journal_path(target, logs))
    for item in measured_space(every=every):
        factor = 0.6 if pays and item.part.part == "block" and "_g" not in item.part.block else 2.0
        in_int8 = item.overhead_ms + factor * (item.latency_ms - item.overhead_ms)
        records.append(item)
        records.append(item.model_copy(update={"dtype": "int8", "latency_ms": in_int8}))
    for part, latencies in (more or {}).items():
        for dtype, ms in zip(("float32", "int8"), latencies, strict=True):
            records.append(measurement(part, ms, overhead_ms=0.2, dtype=dtype))
    for part in conversions_of(load_space("fbnet_mini")):
        records.append(measurement(part, 0.21, overhead_ms=0.2, dtype="int8"))
    for dtype in ("float32", "int8"):
        records.append(measurement(OVERHEAD_PART, 0.2, overhead_ms=0.0, dtype=dtype))


def tuned_kernels(path: Path, context: Context, kernel_ms: Mapping[NetPart, float], log: str = "database") -> None:
    """What tuning leaves of parts with one kernel each: the kernels in ``path``, and a trial of each in its log.

    Args:
        path: ``kernels.json`` of a target.
        context: of the kernels.
        kernel_ms: what each part's kernel takes.
        log: the folder of the trials, beside ``path``.
    """
    trials = path.parent / log / "trials.jsonl"
    trials.parent.mkdir(parents=True, exist_ok=True)
    with trials.open("a") as stream:
        for part, ms in kernel_ms.items():
            stream.write(json.dumps({"task": part.name, "kind": "", "best_ms": ms}) + "\n")
    save_kernels(path, context, trials, {part: {part.name: 1} for part in kernel_ms})
