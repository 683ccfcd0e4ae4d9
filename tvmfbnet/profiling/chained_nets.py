"""Nets whose parts are timed inside them: compiled into one library and timed on the device, pass by pass.

Passes can be stored and given back, and a library that an earlier run compiled is reused, so a killed run resumes with
the next pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tvm.ir import IRModule

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.compiler.instrument import chain_nets
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build_prepared, lower, prepare
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.machine import allowed_cores
from tvmfbnet.profiling.canary import HonestTiming, pooled
from tvmfbnet.profiling.device_timer import ChainTiming, DeviceTimer
from tvmfbnet.progress import Reporter, progress
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.space import NetPart
from tvmfbnet.targets.definition import ResolvedTarget

# All of a process's block builders of TVM share one stack.
_CHAINING = threading.Lock()


class ChainedNets:
    """Nets as chains of parts, in one library on this machine's disk, with the timings of their passes.

    Args:
        nets: the parts of each, in order of execution.
        scheduled: each of these parts, from :func:`schedule_parts`; not needed where there is a library.
        target: a CPU target.
        library: the file to write, atomically; an existing one is reused.
        passes: what an earlier run timed.
    """

    def __init__(
        self,
        nets: Sequence[Sequence[NetPart]],
        scheduled: Mapping[NetPart, IRModule],
        target: ResolvedTarget,
        library: Path,
        passes: Iterable[ChainTiming] = (),
    ) -> None:
        self.nets, self._library = nets, library
        self._passes = list(passes)
        if library.exists():
            return
        compiled_for = target.for_tvm()
        with _CHAINING:
            chains = chain_nets([[scheduled[part] for part in net] for net in nets], compiled_for)
        with scratch_folder(library.parent) as folder:
            executable = build_prepared(chains, compiled_for, checks=False)
            save_library(executable, folder / library.name, target).replace(library)

    @property
    def pass_count(self) -> int:
        """Passes done, including those of earlier runs."""
        return len(self._passes)

    def run_pass(self, timer: DeviceTimer) -> ChainTiming:
        """Times all nets once more, with ``timing.chain_runs`` runs each."""
        shape, runs = part_input_shape(self.nets[0][0], timer.target.batch), timer.target.timing.chain_runs
        self._passes.append(timer.chains(self._library, shape, len(self.nets), runs))
        return self._passes[-1]

    def part_ms(self, net: int, index: int) -> list[float]:
        """Latencies of the part at one place of one net in every run of every pass, milliseconds."""
        return [ms for done in self._passes for ms in done.nets_ms[net][index]]

    def part_ms_by_pass(self, net: int, index: int) -> list[tuple[float, ...]]:
        """As :meth:`part_ms`, one tuple per pass."""
        return [done.nets_ms[net][index] for done in self._passes]

    @property
    def wholes(self) -> list[HonestTiming]:
        """For each pass so far, the latency of all nets together and how steady the device was."""
        return [done.whole for done in self._passes]

    def whole(self) -> HonestTiming:
        """The same for all passes together."""
        return pooled([done.whole for done in self._passes])


def compile_groups(
    groups: Mapping[int, Sequence[Sequence[NetPart]]],
    schedule: Callable[[Sequence[NetPart]], Mapping[NetPart, IRModule]],
    target: ResolvedTarget,
    folder: Path,
    passes: Callable[[int], Iterable[ChainTiming]],
    reporter: Reporter,
) -> dict[int, ChainedNets]:
    """Groups of nets, each compiled into a library of its own, as many at the same time as there are cores.

    Args:
        groups: nets of each library, by its number.
        schedule: gives parts as :func:`schedule_parts` does; called only if a library is missing.
        target: a CPU target.
        folder: of the libraries; those that an earlier run compiled are reused.
        passes: what an earlier run timed of a library.
        reporter: counts nets.
    """
    paths = {number: folder / f"{number}.so" for number in groups}
    missing = [net for number, nets in groups.items() if not paths[number].exists() for net in nets]
    parts = list(dict.fromkeys(part for net in missing for part in net))
    scheduled = schedule(parts) if parts else {}

    def compiled(number: int) -> ChainedNets:
        return ChainedNets(groups[number], scheduled, target, paths[number], passes(number))

    libraries = {}
    with ThreadPoolExecutor(allowed_cores()) as threads:  # LLVM works without Python's lock
        begun = {threads.submit(compiled, number): number for number in groups}
        for finished in as_completed(begun):
            libraries[begun[finished]] = finished.result()
            reporter.advance(len(groups[begun[finished]]))
    return {number: libraries[number] for number in groups}


def schedule_parts(
    parts: Sequence[NetPart],
    target: ResolvedTarget,
    database: TuningDatabase,
    lowered: Mapping[NetPart, IRModule] | None = None,
) -> dict[NetPart, IRModule]:
    """Parts with the schedules that tuning found; those missing from ``lowered`` are lowered now."""
    already_lowered, compiled_for = lowered or {}, target.for_tvm()
    missing = [part for part in parts if part not in already_lowered]
    fresh: dict[NetPart, IRModule] = {}
    if missing:
        from tvmfbnet.compiler.export import export_parts  # loads torch

        models = export_parts(missing, target.data_type, target.batch)
        fresh = {part: lower(model, compiled_for) for part, model in models.items()}

    def schedule(part: NetPart) -> IRModule:
        return prepare(fresh[part] if part in fresh else already_lowered[part], compiled_for, database.records)

    scheduled: dict[NetPart, IRModule] = {}
    with progress("scheduling blocks", len(parts)) as reporter, ThreadPoolExecutor(allowed_cores()) as threads:
        for part, mod in zip(parts, threads.map(schedule, parts), strict=True):
            scheduled[part] = mod
            reporter.advance()
    return scheduled
