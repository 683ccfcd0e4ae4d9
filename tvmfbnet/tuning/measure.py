"""Timing the parts of a space on the device; each measurement is in the journal before the next is made.

On CPUs parts are timed inside nets: chains of parts, each part among several neighbours, with a clock read at every
border (:mod:`tvmfbnet.compiler.chaining`). On GPUs, whose kernels run behind the host's back, a part is timed alone,
going around copies of its weights (:mod:`tvmfbnet.compiler.repeating`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tvm
from tvm.ir import IRModule

from tvmfbnet.compiler.chaining import chain_parts
from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.compiler.repeating import constant_bytes
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.timing import HonestTiming, drop_outliers
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, ROTATING, Context, Measurement, summarise
from tvmfbnet.progress import progress, say
from tvmfbnet.space.space import BLOCK, NetPart
from tvmfbnet.tuning.carriers import carrier_nets
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.plan import Plan
from tvmfbnet.tuning.timer import DeviceTimer
from tvmfbnet.tuning.trials import TrialLog

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
    """Times parts inside nets; returns how many of the nets were timed on an unsteady device."""
    wanted, unsteady = set(due), 0
    blocks = {part for part in due if part.part == BLOCK}
    nets = carrier_nets(bench.plan.space, blocks, rounds, bench.plan.parts, seed)
    lowered = {**bench.plan.parts, **_lowered_fillers(bench, nets)}
    with progress("timing blocks in nets", len(nets)) as reporter:
        for number, net in enumerate(nets):
            path = bench.folder / f"carrier{number}.so"
            chain = chain_parts([lowered[part] for part in net], bench.compiled_for)
            library = save_library(build(chain, bench.compiled_for, bench.database.records), path, bench.timer.target)
            timing = bench.timer.chain(library, part_input_shape(net[0]))
            library.unlink()
            for part in dict.fromkeys(part for part in net if part in wanted):
                places = [samples for other, samples in zip(net, timing.parts_ms, strict=True) if other == part]
                kept = [drop_outliers(samples) for samples in places]
                samples_ms = [value + bench.overhead_ms for sample in kept for value in sample.repeats_ms]
                bench.record(part, samples_ms, sum(sample.outliers for sample in kept), timing.whole)
            unsteady += not timing.whole.steady
            reporter.advance()
    return unsteady


def _lowered_fillers(bench: _Bench, nets: Sequence[Sequence[NetPart]]) -> dict[NetPart, IRModule]:
    """Parts that nets need around those to be timed and that the plan does not hold."""
    missing = list(dict.fromkeys(part for net in nets for part in net if part not in bench.plan.parts))
    return {part: lower(model, bench.compiled_for) for part, model in export_parts(missing).items()}


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
