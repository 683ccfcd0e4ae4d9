"""Timing the parts of a space on the device; each measurement is in the journal before the next is made.

On CPUs parts are timed inside nets: chains of parts, each part among several neighbours, with a clock read at every
border (:mod:`tvmfbnet.compiler.chaining`). On GPUs, whose kernels run behind the host's back, a part is timed alone,
going around copies of its weights (:mod:`tvmfbnet.compiler.repeating`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from tvm.ir import IRModule

from tvmfbnet.compiler.export import part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build
from tvmfbnet.compiler.repeating import constant_bytes
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.timing import HonestTiming, Sample, drop_outliers
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, ISOLATED, Measurement, summarise
from tvmfbnet.progress import progress, say
from tvmfbnet.space.space import BLOCK, NetPart
from tvmfbnet.tuning.carriers import carrier_nets
from tvmfbnet.tuning.chained import ChainedNets, schedule_parts
from tvmfbnet.tuning.context import context_of as context_of
from tvmfbnet.tuning.context import protocol_of as protocol_of
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.plan import Plan
from tvmfbnet.tuning.timer import DeviceTimer
from tvmfbnet.tuning.trials import TrialLog

_NETS_A_LIBRARY = 10
_MOST_COPIES = 16
_SMALL_WEIGHTS = 64 * 1024


@dataclass(frozen=True)
class _Bench:
    """What every measurement of a run shares."""

    plan: Plan
    timer: DeviceTimer
    database: TuningDatabase
    journal: Journal
    trials: dict[NetPart, int]
    overhead_ms: float
    folder: Path

    @property
    def compiled_for(self) -> tvm.target.Target:
        return tvm.target.Target(self.timer.target.tvm)

    def record(self, part: NetPart, samples_ms: Sequence[float], outliers: int, timing: HonestTiming) -> None:
        """Writes one measurement; ``samples_ms`` hold the cost of a call."""
        what = {"part": part, "trials": self.trials[part], "protocol": protocol_of(self.timer.target)}
        sample = Sample(tuple(samples_ms), outliers)
        self.journal.append(measurement(self.timer, replace(timing, sample=sample), self.overhead_ms, **what))


def measurement(timer: DeviceTimer, timing: HonestTiming, overhead_ms: float, **what: Any) -> Measurement:
    """What a timing says, with its provenance.

    Args:
        timer: what timed it.
        timing: the repeats (with the cost of a call) and what is known about the device meanwhile.
        overhead_ms: that cost.
        what: the other fields of a :class:`Measurement`: what was timed, and how.
    """
    return Measurement.model_validate(
        {
            **summarise(timing.sample.repeats_ms),
            **context_of(timer.target, timer.fingerprint).to_dict(),
            "protocol": ISOLATED,
            "canary_ratio": timing.canary_ratio,
            "steady": timing.steady,
            "tries": timing.tries,
            "outliers": timing.sample.outliers,
            "overhead_ms": overhead_ms,
            "fingerprint": timer.fingerprint,
            **what,
        }
    )


def measure_parts(
    plan: Plan,
    parts: Sequence[NetPart],
    timer: DeviceTimer,
    database: TuningDatabase,
    journal: Journal,
    log: TrialLog,
    seed: int = 0,
    context: Context | None = None,
) -> int:
    """Builds and times those of ``parts`` that the journal does not hold yet; returns how many were timed.

    A part whose kernels got more trials since it was timed counts as not held.

    Args:
        plan: where the parts' kernels are.
        parts: what to time.
        timer: times it.
        database: the schedules.
        journal: where measurements are and go.
        log: the trials that the kernels have had.
        seed: of the draw of neighbours.
        context: of the timer's device; by default any device of the target will do.
    """
    target = timer.target
    wanted = context or context_of(target)
    trials = {part: log.trials_of(plan.kernels[part]) for part in parts}
    held = Counter((m.part, m.trials) for m in journal.read() if wanted.admits(m.context))
    rounds = target.timing.chain_rounds if protocol_of(target) == IN_NET else 1
    lacking = {part: rounds - held[part, trials[part]] for part in parts}
    due = [part for part in parts if lacking[part] > 0]
    if not due:
        return 0
    with TemporaryDirectory() as folder:
        bench = _Bench(plan, timer, database, journal, trials, timer.overhead_ms(), Path(folder))
        if protocol_of(target) == IN_NET:
            unsteady = _time_in_nets(bench, due, max(lacking.values()), seed)
        else:
            unsteady = sum(not _time_alone(bench, part) for part in _counted(due, len(parts) - len(due)))
    if unsteady:
        say(f"warning: {unsteady} measurement(s) were made while the device kept changing its speed")
    return len(due)


def _counted(due: Sequence[NetPart], done: int) -> Iterator[NetPart]:
    with progress("measuring blocks", done + len(due), done=done) as reporter:
        for part in due:
            yield part
            reporter.advance()


def _time_in_nets(bench: _Bench, due: Sequence[NetPart], rounds: int, seed: int) -> int:
    """Times parts inside nets; returns how many libraries of nets were timed on an unsteady device."""
    blocks = {part for part in due if part.part == BLOCK}
    nets = carrier_nets(bench.plan.space, blocks, rounds, bench.plan.parts, seed)
    met = list(dict.fromkeys(part for net in nets for part in net))
    scheduled = schedule_parts(met, bench.compiled_for, bench.database, bench.plan.parts)
    target = bench.timer.target
    with progress("compiling nets of blocks", len(nets)) as reporter:
        libraries: list[ChainedNets] = []
        for number, group in enumerate(_groups(nets)):
            libraries.append(ChainedNets(group, scheduled, target, bench.folder / f"carriers{number}.so"))
            reporter.advance(len(group))
    # In turn, so that a device that changes its speed for a minute does so for all blocks.
    with progress("timing blocks in nets", target.timing.visits * len(nets)) as reporter:
        for _ in range(target.timing.visits):
            for carriers in libraries:
                carriers.visit(bench.timer)
                reporter.advance(len(carriers.nets))
    steady = [_record_nets(bench, carriers, set(due)) for carriers in libraries]
    return len(steady) - sum(steady)


def _record_nets(bench: _Bench, carriers: ChainedNets, wanted: Collection[NetPart]) -> bool:
    """Writes a measurement of each wanted part of each net; whether the device was steady."""
    timing = carriers.whole()
    for place, net in enumerate(carriers.nets):
        for part in dict.fromkeys(part for part in net if part in wanted):
            indices = [index for index, other in enumerate(net) if other == part]
            kept = [drop_outliers(carriers.part_ms(place, index)) for index in indices]
            samples_ms = [value + bench.overhead_ms for sample in kept for value in sample.repeats_ms]
            bench.record(part, samples_ms, sum(sample.outliers for sample in kept), timing)
    return timing.steady


def _groups(nets: Sequence[Sequence[NetPart]]) -> list[Sequence[Sequence[NetPart]]]:
    """Nets of one library each: large enough to share kernels, small enough for one session to time all of them."""
    count = math.ceil(len(nets) / _NETS_A_LIBRARY)
    size = math.ceil(len(nets) / count)
    return [nets[start : start + size] for start in range(0, len(nets), size)]


def _time_alone(bench: _Bench, part: NetPart) -> bool:
    """Times one part going around copies of its weights; returns whether the device was steady."""
    mod = bench.plan.parts[part]
    copies = weight_copies(mod, bench.timer.target)
    executable = build(mod, bench.compiled_for, bench.database.records, copies)
    library = save_library(executable, bench.folder / f"{part.slug}.so", bench.timer.target)
    timing = bench.timer.steadily(library, part_input_shape(part))
    library.unlink()
    # One copy's share and the whole cost of a call: what the part alone, with weights as in a net, would take.
    overhead = bench.overhead_ms
    samples_ms = [max(sample - overhead, 0.0) / copies + overhead for sample in timing.sample.repeats_ms]
    bench.record(part, samples_ms, timing.sample.outliers, timing)
    return timing.steady


def weight_copies(mod: IRModule, target: Target) -> int:
    """How many copies of a part's weights its timing goes around, so that they arrive as cold as in a net.

    Enough to fill the target's ``timing.rotate_mb``; one where the weights are so small that it makes no difference.
    """
    weights = constant_bytes(mod)
    if weights < _SMALL_WEIGHTS:
        return 1
    return min(_MOST_COPIES, max(1, math.ceil(target.timing.rotate_mb * 2**20 / weights)))
