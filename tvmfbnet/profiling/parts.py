"""Timing the parts of a space on the device; each measurement is in the journal before the next is made.

What is pooled from several visits is kept visit by visit until it is whole (:mod:`tvmfbnet.profiling.probe_passes`).

On CPUs parts are timed inside nets: chains of parts, each part among several neighbours, with a clock read at every
border (:mod:`tvmfbnet.compiler.instrument`). On GPUs, whose kernels run behind the host's back, a part is timed alone,
going around copies of its weights (:mod:`tvmfbnet.compiler.weight_copies`).
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm.ir import IRModule

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.plan import Plan
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.compiler.weight_copies import constant_bytes
from tvmfbnet.files import make_folder
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, ISOLATED, Measurement, summarise
from tvmfbnet.latency.passes import VisitLog
from tvmfbnet.profiling.canary import HonestTiming, Sample, drop_outliers
from tvmfbnet.profiling.chained_nets import ChainedNets, schedule_parts
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.probe_networks import carrier_nets
from tvmfbnet.profiling.probe_passes import NetsRun, VisitsMade, runs_begun
from tvmfbnet.progress import progress, say, step
from tvmfbnet.rpc.device_context import context_of as context_of
from tvmfbnet.rpc.device_context import protocol_of as protocol_of
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.space import BLOCK, NetPart
from tvmfbnet.targets.definition import ResolvedTarget

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
    trials: Mapping[NetPart, int]
    folder: Path
    context: Context
    overhead_ms: float = 0.0

    @property
    def compiled_for(self) -> tvm.target.Target:
        return self.timer.target.for_tvm()

    @property
    def shared(self) -> dict[str, Any]:
        """What visits must have in common to be pooled, the parts and their kernels apart."""
        return {"context": self.context.to_dict(), "timing": self.timer.target.timing.model_dump(mode="json")}

    def held(self) -> Counter[tuple[NetPart, int]]:
        """How many measurements the journal holds of each part, by the trials that its kernels had had."""
        return Counter(
            (found.part, found.trials) for found in self.journal.read() if self.context.admits(found.context)
        )

    def measured(
        self, part: NetPart, samples_ms: Sequence[float], outliers: int, timing: HonestTiming, **more: Any
    ) -> Measurement:
        """The measurement of one part; ``samples_ms`` hold the cost of a call."""
        known = {} if self.context.device_model is None else self.context.to_dict()
        what = {**known, "part": part, "trials": self.trials[part], "protocol": protocol_of(self.timer.target), **more}
        sample = Sample(tuple(samples_ms), outliers)
        return measurement(self.timer, replace(timing, sample=sample), self.overhead_ms, **what)


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

    A part whose kernels got more trials since it was timed counts as not held. What an earlier run began, inside nets,
    is done first.

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
    trials = {part: log.trials_of(kernels) for part, kernels in plan.kernels.items()}
    timed: set[NetPart] = set()
    unsteady = 0
    with scratch_folder() as folder:
        bench = _Bench(plan, timer, database, journal, trials, folder, context or context_of(target))
        if protocol_of(target) == IN_NET:
            visits = VisitLog(journal.path)
            for begun in runs_begun(visits, bench.shared, trials):
                unsteady += _time_nets(bench, begun, visits)
                timed |= begun.due
        rounds = target.timing.chain_rounds if protocol_of(target) == IN_NET else 1
        held = bench.held()
        lacking = {part: rounds - held[part, trials[part]] for part in parts}
        due = [part for part in parts if lacking[part] > 0]
        if due and protocol_of(target) == IN_NET:
            unsteady += _time_nets(bench, _draw(bench, due, max(lacking.values()), seed), visits)
        elif due:
            with step("timing an empty call"):
                bench = replace(bench, overhead_ms=timer.overhead_ms())
            unsteady += sum(not _time_alone(bench, part) for part in _counted(due, len(parts) - len(due)))
    if unsteady:
        say(f"warning: {unsteady} measurement(s) were made while the device kept changing its speed")
    return len(timed.union(due))


def _counted(due: Sequence[NetPart], done: int) -> Iterator[NetPart]:
    with progress("measuring blocks", done + len(due), done=done) as reporter:
        for part in due:
            yield part
            reporter.advance()


def _draw(bench: _Bench, due: Sequence[NetPart], rounds: int, seed: int) -> NetsRun:
    """Nets that hold the parts that are due, and what is known before the first visit."""
    blocks = {part for part in due if part.part == BLOCK}
    nets = carrier_nets(bench.plan.space, blocks, rounds, bench.plan.parts, seed)
    met = dict.fromkeys(part for net in nets for part in net)
    trials = {part: bench.trials.get(part, 0) for part in met}
    with step("timing an empty call"):
        overhead_ms = bench.timer.overhead_ms()
    return NetsRun.begun(nets, frozenset(due), trials, bench.shared, overhead_ms)


def _time_nets(bench: _Bench, run: NetsRun, log: VisitLog) -> int:
    """Makes the visits that a run lacks; returns how many libraries of nets were timed on an unsteady device.

    Each visit is on the disk before the next one. A library's measurements go to the journal with its last visit.
    """
    bench = replace(bench, overhead_ms=run.overhead_ms)
    made = VisitsMade(run, log)
    target, wanted, unsteady = bench.timer.target, bench.timer.target.timing.visits, 0
    groups = {number: group for number, group in enumerate(_groups(run.nets)) if number not in made.recorded}
    folder = make_folder(bench.journal.path.parent / f"carriers-{run.key}")

    @cache
    def scheduled() -> Mapping[NetPart, IRModule]:
        met = list(dict.fromkeys(part for net in run.nets for part in net))
        return schedule_parts(met, bench.compiled_for, bench.database, bench.plan.parts)

    libraries: dict[int, ChainedNets] = {}
    with progress("compiling nets of blocks", sum(map(len, groups.values()))) as reporter:
        for number, group in groups.items():
            library = folder / f"{number}.so"
            libraries[number] = ChainedNets(group, scheduled, target, library, made.visits(number))
            reporter.advance(len(group))
    # In turn, so that a device that changes its speed for a minute does so for all blocks.
    done = sum(carriers.visits * len(carriers.nets) for carriers in libraries.values())
    with progress("timing blocks in nets", wanted * sum(map(len, groups.values())), done=done) as reporter:
        for visit in range(wanted):
            for number, carriers in libraries.items():
                if carriers.visits <= visit:
                    made.add(number, carriers.visit(bench.timer), bench.timer.fingerprint)
                    reporter.advance(len(carriers.nets))
                if visit == wanted - 1:
                    unsteady += not _record_nets(bench, carriers, run.due, made.fingerprint(number))
                    made.mark_recorded(number)
    log.drop(run.key)
    shutil.rmtree(folder, ignore_errors=True)
    return unsteady


def _record_nets(
    bench: _Bench, carriers: ChainedNets, wanted: Collection[NetPart], fingerprint: Mapping[str, Any]
) -> bool:
    """Writes a measurement of each wanted part of each net; whether the device was steady.

    Those that a run wrote before it was killed in this very place are not written twice.
    """
    timing = carriers.whole()
    written = Counter(_content(found) for found in bench.journal.read())
    for place, net in enumerate(carriers.nets):
        for part in dict.fromkeys(part for part in net if part in wanted):
            indices = [index for index, other in enumerate(net) if other == part]
            kept = [drop_outliers(carriers.part_ms(place, index)) for index in indices]
            samples_ms = [value + bench.overhead_ms for sample in kept for value in sample.repeats_ms]
            outliers = sum(sample.outliers for sample in kept)
            found = bench.measured(part, samples_ms, outliers, timing, fingerprint=dict(fingerprint))
            if written[_content(found)]:
                written[_content(found)] -= 1
            else:
                bench.journal.append(found)
    return timing.steady


def _content(found: Measurement) -> str:
    """What a measurement says, whenever it was written."""
    return found.model_dump_json(exclude={"time"}, fallback=str)


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
    bench.journal.append(bench.measured(part, samples_ms, timing.sample.outliers, timing))
    return timing.steady


def weight_copies(mod: IRModule, target: ResolvedTarget) -> int:
    """How many copies of a part's weights its timing goes around, so that they arrive as cold as in a net.

    Enough to fill the target's ``timing.rotate_mb``; one where the weights are so small that it makes no difference.
    """
    weights = constant_bytes(mod)
    if weights < _SMALL_WEIGHTS:
        return 1
    return min(_MOST_COPIES, max(1, math.ceil(target.timing.rotate_mb * 2**20 / weights)))
