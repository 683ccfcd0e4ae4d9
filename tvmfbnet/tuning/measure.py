"""Timing the parts of a space on the device; each measurement is in the journal before the next is made.

On CPUs parts are timed inside nets: chains of parts, each part among several neighbours, with a clock read at every
border (:mod:`tvmfbnet.compiler.chaining`). On GPUs, whose kernels run behind the host's back, a part is timed alone,
going around copies of its weights (:mod:`tvmfbnet.compiler.repeating`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tvm
from tvm.ir import IRModule

from tvmfbnet.compiler.chaining import chain_nets
from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, build_prepared, kernels_of, lower, prepare
from tvmfbnet.compiler.repeating import constant_bytes
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.timing import HonestTiming, drop_outliers, pooled
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, ROTATING, Context, Measurement, summarise
from tvmfbnet.progress import progress, say
from tvmfbnet.space.space import BLOCK, NetPart
from tvmfbnet.tuning.carriers import carrier_nets
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.plan import Plan
from tvmfbnet.tuning.timer import ChainTiming, DeviceTimer
from tvmfbnet.tuning.trials import TrialLog

_NETS_A_LIBRARY = 10
_MOST_COPIES = 16
_SMALL_WEIGHTS = 64 * 1024


def context_of(target: Target) -> Context:
    """What this process's measurements on ``target`` may be mixed with."""
    return Context(target.name, tvm.__version__, target.tvm_json(), target.threads, target.dtype, target.layout)


def protocol_of(target: Target) -> str:
    """How parts are timed on a target."""
    return IN_NET if target.tvm["kind"] == "llvm" else ROTATING


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
        context = context_of(self.timer.target)
        fields = {
            **summarise(samples_ms),
            **vars(context),
            "canary_ratio": timing.canary_ratio,
            "steady": timing.steady,
            "tries": timing.tries,
            "outliers": outliers,
            "part": part,
            "trials": self.trials[part],
            "protocol": protocol_of(self.timer.target),
            "overhead_ms": self.overhead_ms,
            "fingerprint": self.timer.fingerprint,
        }
        self.journal.append(Measurement.model_validate(fields))


def measure_parts(
    plan: Plan,
    parts: Sequence[NetPart],
    timer: DeviceTimer,
    database: TuningDatabase,
    journal: Journal,
    log: TrialLog,
    seed: int = 0,
) -> int:
    """Builds and times those of ``parts`` that the journal does not hold yet; returns how many were timed.

    A part whose kernels got more trials since it was timed counts as not held.
    """
    target = timer.target
    context, compiled_for = context_of(target), tvm.target.Target(target.tvm)
    trials = {part: sum(log.spent[k.key] for k in kernels_of(plan.parts[part], compiled_for)) for part in parts}
    held = Counter(
        (m.part, m.trials) for m in journal.read() if m.context == context and m.protocol == protocol_of(target)
    )
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
    prepared = _prepared(bench, list(dict.fromkeys(part for net in nets for part in net)))
    policy = bench.timer.target.timing
    with progress("compiling nets of blocks", len(nets)) as reporter:
        libraries: list[_Carriers] = []
        for number, group in enumerate(_groups(nets)):
            libraries.append(_Carriers(bench, number, group, prepared))
            reporter.advance(len(group))
    # In turn, so that a device that changes its speed for a minute does so for all blocks.
    with progress("timing blocks in nets", policy.visits * len(nets)) as reporter:
        for _ in range(policy.visits):
            for carriers in libraries:
                carriers.visit()
                reporter.advance(len(carriers.nets))
    steady = [carriers.record(set(due)) for carriers in libraries]
    return len(steady) - sum(steady)


class _Carriers:
    """Some nets in one library on this machine's disk, and what their visits showed."""

    def __init__(
        self, bench: _Bench, number: int, nets: Sequence[Sequence[NetPart]], prepared: Mapping[NetPart, IRModule]
    ) -> None:
        self.nets, self._bench = nets, bench
        self._visits: list[ChainTiming] = []
        chains = chain_nets([[prepared[part] for part in net] for net in nets], bench.compiled_for)
        path = bench.folder / f"carriers{number}.so"
        self._library = save_library(build_prepared(chains, bench.compiled_for), path, bench.timer.target)

    def visit(self) -> None:
        """Times all nets once more."""
        shape, runs = part_input_shape(self.nets[0][0]), self._bench.timer.target.timing.chain_runs
        self._visits.append(self._bench.timer.chains(self._library, shape, len(self.nets), runs))

    def record(self, wanted: Collection[NetPart]) -> bool:
        """Writes a measurement of each wanted part of each net, removes the library; whether the device was steady."""
        self._library.unlink()
        timing = pooled([visit.whole for visit in self._visits])
        for place, net in enumerate(self.nets):
            visits_ms = [visit.nets_ms[place] for visit in self._visits]
            for part in dict.fromkeys(part for part in net if part in wanted):
                indices = [index for index, other in enumerate(net) if other == part]
                kept = [drop_outliers([ms for visit in visits_ms for ms in visit[index]]) for index in indices]
                samples_ms = [value + self._bench.overhead_ms for sample in kept for value in sample.repeats_ms]
                self._bench.record(part, samples_ms, sum(sample.outliers for sample in kept), timing)
        return timing.steady


def _groups(nets: Sequence[Sequence[NetPart]]) -> list[Sequence[Sequence[NetPart]]]:
    """Nets of one library each: large enough to share kernels, small enough for one session to time all of them."""
    count = math.ceil(len(nets) / _NETS_A_LIBRARY)
    size = math.ceil(len(nets) / count)
    return [nets[start : start + size] for start in range(0, len(nets), size)]


def _prepared(bench: _Bench, parts: Sequence[NetPart]) -> dict[NetPart, IRModule]:
    """Parts with the schedules that tuning found; those that the plan does not hold are lowered now."""
    missing = [part for part in parts if part not in bench.plan.parts]
    lowered = {part: lower(model, bench.compiled_for) for part, model in export_parts(missing).items()}
    found: dict[NetPart, IRModule] = {}
    with progress("scheduling blocks", len(parts)) as reporter:
        for part in parts:
            mod = lowered[part] if part in lowered else bench.plan.parts[part]
            found[part] = prepare(mod, bench.compiled_for, bench.database.records)
            reporter.advance()
    return found


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
