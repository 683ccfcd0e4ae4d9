"""Timing the conversions of tensors between float32 and a quantised dtype, for nets of mixed dtypes.

Each is timed in a chain in which the tensor is quantised and dequantised several times, with a clock between, so that a
conversion reads what the one before it wrote: as in a net, where it reads its neighbour's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvmfbnet.compiler.conversions import conversion_part
from tvmfbnet.compiler.lowering import prepare
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET
from tvmfbnet.profiling.canary import Sample, drop_outliers
from tvmfbnet.profiling.chained_nets import ChainedNets
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.parts import measurement
from tvmfbnet.progress import progress, step
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.borders import DEQUANTISE, QUANTISE, conversions_of
from tvmfbnet.space.space import NetPart, Space

# Times that a chain converts its tensor there and back.
_TURNS = 4


def measure_conversions(space: Space, timer: DeviceTimer, journal: Journal, context: Context) -> int:
    """Times those conversions of a space that are missing from the journal; returns how many.

    Args:
        space: whose borders between units count.
        timer: of the device, for a target in a quantised dtype.
        journal: read for existing measurements, and written.
        context: of the timer's device.
    """
    recorded = {item.part for item in journal.read() if context.admits(item.context)}
    due = [part for part in conversions_of(space) if part not in recorded]
    if not due:
        return 0
    chains = list(dict.fromkeys((part.cin, part.height, part.width) for part in due))
    target, compiled_for = timer.target, timer.target.for_tvm()
    with step("timing an empty call"):
        overhead_ms = timer.overhead_ms()
    with scratch_folder() as folder, progress("timing conversions", len(chains)) as reporter:
        for number, shape in enumerate(chains):
            pair = [part for part in due if (part.cin, part.height, part.width) == shape]
            kernels = {
                part: prepare(conversion_part(part, compiled_for), compiled_for, None) for part in _both(pair[0])
            }
            chained = ChainedNets([list(kernels) * _TURNS], kernels, target, folder / f"{number}.so")
            for _ in range(target.timing.visits):
                chained.run_pass(timer)
            _record(pair, chained, timer, overhead_ms, journal, context)
            reporter.advance()
    return len(due)


def _both(part: NetPart) -> tuple[NetPart, NetPart]:
    """The conversions of a tensor there and back."""
    return replace(part, block=QUANTISE), replace(part, block=DEQUANTISE)


def _record(
    parts: Sequence[NetPart],
    chained: ChainedNets,
    timer: DeviceTimer,
    overhead_ms: float,
    journal: Journal,
    context: Context,
) -> None:
    """Appends a measurement of each of the conversions in a chain."""
    timing, facts = chained.whole(), {} if context.device_model is None else context.to_dict()
    for part in parts:
        indices = [index for index, other in enumerate(chained.nets[0]) if other == part]
        kept = [drop_outliers(chained.part_ms(0, index)) for index in indices]
        sample = Sample(
            tuple(value + overhead_ms for one in kept for value in one.repeats_ms), sum(one.outliers for one in kept)
        )
        timed = replace(timing, sample=sample)
        what = {**facts, "part": part, "trials": 0, "protocol": IN_NET}
        journal.append(measurement(timer, timed, overhead_ms, **what))
