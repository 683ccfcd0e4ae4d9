"""Timing the parts of a space on the device; each measurement is in the journal before the next starts.

Measurements pooled from several passes are stored pass by pass until complete (:mod:`tvmfbnet.profiling.probe_passes`).

On CPUs parts are timed inside probe networks: chains of parts, each part among varying neighbours, with a clock reading
at every boundary (:mod:`tvmfbnet.compiler.instrument`). On GPUs, whose kernels run asynchronously, a part is timed
alone, rotating through copies of its weights (:mod:`tvmfbnet.compiler.weight_copies`).
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tvm
from tvm.ir import IRModule

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.plan import Plan
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.compiler.weight_copies import constant_bytes
from tvmfbnet.files import make_folder
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, ISOLATED, Measurement, summarise
from tvmfbnet.latency.origin import SIMULATED
from tvmfbnet.latency.passes import PassLog
from tvmfbnet.profiling.canary import HonestTiming, Sample, drop_outliers
from tvmfbnet.profiling.chained_nets import ChainedNets, compile_groups, schedule_parts
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.probe_networks import probe_networks
from tvmfbnet.profiling.probe_passes import NetsRun, PassesDone, runs_begun
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
        """What passes must share to be pooled, apart from the parts and their kernels."""
        return {"context": self.context.to_dict(), "timing": self.timer.target.timing.model_dump(mode="json")}

    def recorded(self) -> Counter[tuple[NetPart, int]]:
        """Measurements in the journal, counted by part and by the trials spent on its kernels."""
        return Counter((item.part, item.trials) for item in self.journal.read() if self.context.admits(item.context))

    def measured(
        self, part: NetPart, samples_ms: Sequence[float], outliers: int, timing: HonestTiming, **more: Any
    ) -> Measurement:
        """The measurement of one part; ``samples_ms`` include the cost of a call."""
        context = {} if self.context.device_model is None else self.context.to_dict()
        what = {
            **context,
            "part": part,
            "trials": self.trials[part],
            "protocol": protocol_of(self.timer.target),
            **more,
        }
        sample = Sample(tuple(samples_ms), outliers)
        return measurement(self.timer, replace(timing, sample=sample), self.overhead_ms, **what)


def measurement(timer: DeviceTimer, timing: HonestTiming, overhead_ms: float, **what: Any) -> Measurement:
    """A timing with its provenance.

    Args:
        timer: the timer that made it.
        timing: the repeats (including the cost of a call) and how steady the device was.
        overhead_ms: that cost.
        what: the other fields of a :class:`Measurement`: what was timed, and how.
    """
    return Measurement.model_validate(
        {
            **summarise(timing.sample.repeats_ms),
            **context_of(timer.target, timer.fingerprint).to_dict(),
            "source": timer.source,
            "protocol": ISOLATED,
            "canary_ratio": None if timer.source == SIMULATED else timing.canary_ratio,
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
    """Builds and times those of ``parts`` that are missing from the journal; returns how many were timed.

    A part whose kernels were tuned further since it was timed counts as missing. Probe networks that an earlier run
    left unfinished are resumed first.

    Args:
        plan: has the parts' kernels.
        parts: what to time.
        timer: of the device.
        database: the schedules.
        journal: read for existing measurements, and written.
        log: the trials spent on the kernels.
        seed: for drawing neighbours.
        context: of the timer's device; by default any device of the target.
    """
    target = timer.target
    trials = {part: log.trials_of(kernels) for part, kernels in plan.kernels.items()}
    timed: set[NetPart] = set()
    unsteady = 0
    with scratch_folder() as folder:
        bench = _Bench(plan, timer, database, journal, trials, folder, context or context_of(target))
        if protocol_of(target) == IN_NET:
            passes = PassLog(journal.path)
            for begun in runs_begun(passes, bench.shared, trials):
                unsteady += _time_nets(bench, begun, passes)
                timed |= begun.due
        rounds = target.timing.chain_rounds if protocol_of(target) == IN_NET else 1
        recorded = bench.recorded()
        missing = {part: rounds - recorded[part, trials[part]] for part in parts}
        due = [part for part in parts if missing[part] > 0]
        if due and protocol_of(target) == IN_NET:
            unsteady += _time_nets(bench, _draw(bench, due, max(missing.values()), seed), passes)
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
    """Probe networks that contain the parts that are due, ready for the first pass."""
    blocks = {part for part in due if part.part == BLOCK}
    nets = probe_networks(bench.plan.space, blocks, rounds, bench.plan.parts, seed)
    occurring = dict.fromkeys(part for net in nets for part in net)
    trials = {part: bench.trials.get(part, 0) for part in occurring}
    with step("timing an empty call"):
        overhead_ms = bench.timer.overhead_ms()
    return NetsRun.begun(nets, frozenset(due), trials, bench.shared, overhead_ms)


def _time_nets(bench: _Bench, run: NetsRun, log: PassLog) -> int:
    """Makes the passes that a run lacks; returns how many libraries of nets were timed on an unsteady device.

    Each pass is on disk before the next one. A library's measurements go to the journal with its last pass.
    """
    bench = replace(bench, overhead_ms=run.overhead_ms)
    made = PassesDone(run, log)
    wanted, unsteady = bench.timer.target.timing.visits, 0
    groups = {number: group for number, group in enumerate(_groups(run.nets)) if number not in made.recorded}
    folder = make_folder(bench.journal.path.parent / f"carriers-{run.key}")

    def schedule(parts: Sequence[NetPart]) -> Mapping[NetPart, IRModule]:
        return schedule_parts(parts, bench.timer.target, bench.database, bench.plan.parts)

    with progress("compiling nets of blocks", sum(map(len, groups.values()))) as reporter:
        libraries = compile_groups(groups, schedule, bench.timer.target, folder, made.passes, reporter)
    # In turn, so that a slow spell of the device affects all blocks alike.
    done = sum(probe_nets.pass_count * len(probe_nets.nets) for probe_nets in libraries.values())
    with progress("timing blocks in nets", wanted * sum(map(len, groups.values())), done=done) as reporter:
        for turn in range(wanted):
            for number, probe_nets in libraries.items():
                if probe_nets.pass_count <= turn:
                    made.add(number, probe_nets.run_pass(bench.timer), bench.timer.fingerprint)
                    reporter.advance(len(probe_nets.nets))
                if turn == wanted - 1:
                    unsteady += not _record_nets(bench, probe_nets, run.due, made.fingerprint(number))
                    made.mark_recorded(number)
    log.drop(run.key)
    shutil.rmtree(folder, ignore_errors=True)
    return unsteady


def _record_nets(
    bench: _Bench, probe_nets: ChainedNets, wanted: Collection[NetPart], fingerprint: Mapping[str, Any]
) -> bool:
    """Records a measurement of each wanted part of each net; returns whether the device was steady.

    Those that a run recorded just before it was killed here are not recorded twice.
    """
    timing = probe_nets.whole()
    written = Counter(_content(item) for item in bench.journal.read())
    for place, net in enumerate(probe_nets.nets):
        for part in dict.fromkeys(part for part in net if part in wanted):
            indices = [index for index, other in enumerate(net) if other == part]
            kept = [drop_outliers(probe_nets.part_ms(place, index)) for index in indices]
            samples_ms = [value + bench.overhead_ms for sample in kept for value in sample.repeats_ms]
            outliers = sum(sample.outliers for sample in kept)
            measured = bench.measured(part, samples_ms, outliers, timing, fingerprint=dict(fingerprint))
            if written[_content(measured)]:
                written[_content(measured)] -= 1
            else:
                bench.journal.append(measured)
    return timing.steady


def _content(item: Measurement) -> str:
    """A measurement as text, without its time."""
    return item.model_dump_json(exclude={"time"}, fallback=str)


def _groups(nets: Sequence[Sequence[NetPart]]) -> list[Sequence[Sequence[NetPart]]]:
    """Nets grouped by library: large enough to share kernels, small enough to time in one session."""
    count = math.ceil(len(nets) / _NETS_A_LIBRARY)
    size = math.ceil(len(nets) / count)
    return [nets[start : start + size] for start in range(0, len(nets), size)]


def _time_alone(bench: _Bench, part: NetPart) -> bool:
    """Times one part, rotating through copies of its weights; returns whether the device was steady."""
    mod = bench.plan.parts[part]
    copies = weight_copies(mod, bench.timer.target)
    executable = build(mod, bench.compiled_for, bench.database.records, copies)
    library = save_library(executable, bench.folder / f"{part.slug}.so", bench.timer.target)
    dtype = part_input_type(part, bench.timer.target.data_type)
    timing = bench.timer.steadily(library, part_input_shape(part, bench.timer.target.batch), dtype)
    library.unlink()
    # One copy's share plus the cost of a call: the latency of the part alone with its weights as cold as in a net.
    overhead = bench.overhead_ms
    samples_ms = [max(sample - overhead, 0.0) / copies + overhead for sample in timing.sample.repeats_ms]
    bench.journal.append(bench.measured(part, samples_ms, timing.sample.outliers, timing))
    return timing.steady


def weight_copies(mod: IRModule, target: ResolvedTarget) -> int:
    """How many copies of a part's weights its timing rotates through, so that they are as cold as in a net.

    Enough to fill the target's ``timing.rotate_mb``; one if the weights are too small to matter.
    """
    weights = constant_bytes(mod)
    if weights < _SMALL_WEIGHTS:
        return 1
    return min(_MOST_COPIES, max(1, math.ceil(target.timing.rotate_mb * 2**20 / weights)))
