"""The one place that names MetaSchedule's unstable API: databases, cost model and the search of one task.

Its stock task scheduler runs search, building and measuring one after another and restarts its builders every round;
:mod:`tvmfbnet.tuning.engine` drives the pieces here instead.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import TensorInfo
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch

from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.devices.remote import KernelTiming
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.progress import say

_WORKLOADS, _RECORDS = "database_workload.json", "database_tuning_record.json"


def load_tensor_intrinsics() -> None:
    """Imports TVM's tensor intrinsics, which tuning needs, in 2 s instead of 11 to 50.

    Their registration calls ``inspect.stack``, which reads the source of every loaded module; it is only used for
    error messages there, so an empty stack does while they load.
    """
    stack = inspect.stack
    inspect.stack = lambda context=1: []
    try:
        import tvm.s_tir.tensor_intrin  # noqa: F401
    finally:
        inspect.stack = stack


class TuningDatabase:
    """The schedules found for one target and TVM version: two append-only files in one folder.

    A line torn by a power cut is dropped with a warning when the database is opened for writing.
    """

    def __init__(self, folder: Path, repair: bool = False) -> None:
        self.folder = make_folder(folder) if repair else folder
        if repair:
            _repair(folder)
        with storage_errors(folder, "open the tuning database in"):
            self.records = ms.database.JSONDatabase(
                str(folder / _WORKLOADS), str(folder / _RECORDS), allow_missing=repair
            )

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a tuning database was begun in this folder."""
        return (folder / _RECORDS).is_file() and (folder / _WORKLOADS).is_file()

    def add(self, candidate: Any, kernel: Kernel, target: tvm.target.Target, repeats_ms: Sequence[float]) -> None:
        """Appends one timed candidate."""
        workload = self.records.commit_workload(kernel.mod)
        seconds = [ms_value / 1e3 for ms_value in repeats_ms]
        record = ms.database.TuningRecord(candidate.sch.trace, workload, seconds, target, candidate.args_info)
        with storage_errors(self.folder / _RECORDS, "append to"):
            self.records.commit_tuning_record(record)

    def flush(self) -> None:
        """Makes sure that what was added is on the disk."""
        for name in (_WORKLOADS, _RECORDS):
            path = self.folder / name
            if path.exists():
                with storage_errors(path, "flush"), path.open("rb") as stream:
                    os.fsync(stream.fileno())

    def best_ms(self, kernel: Kernel, target: tvm.target.Target) -> float | None:
        """The best time known for a kernel in milliseconds, or None."""
        record = self.records.query_tuning_record(kernel.mod, target, kernel.name)
        return None if record is None else _milliseconds(record)


def _milliseconds(record: Any) -> float:
    seconds = [float(value) for value in record.run_secs]
    return 1e3 * sum(seconds) / len(seconds)


def _repair(folder: Path) -> None:
    """Drops a last line that does not parse from each file, and records whose workload is gone."""
    workloads = _whole_lines(folder / _WORKLOADS)
    _whole_lines(folder / _RECORDS, workloads=workloads)


def _whole_lines(path: Path, workloads: int | None = None) -> int:
    """Rewrites ``path`` without broken lines, if it has any; returns how many lines are left."""
    if not path.exists():
        return 0
    with storage_errors(path, "read"):
        lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _is_whole(line, workloads)]
    if len(kept) < len(lines):
        say(f"warning: {path} had {len(lines) - len(kept)} broken line(s), dropped")
        with storage_errors(path, "repair"):
            path.write_bytes(b"".join(kept))
    return len(kept)


def _is_whole(line: bytes, workloads: int | None) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return workloads is None or (isinstance(value, list) and isinstance(value[0], int) and value[0] < workloads)


def new_cost_model() -> Any:
    """The gradient-boosted model that ranks candidates; learns from every trial of every task."""
    return ms.cost_model.XGBModel(num_warmup_samples=100, num_tuning_cores=1)


@dataclass(frozen=True)
class Candidate:
    """One schedule to be built and timed."""

    raw: Any
    mod_json: str
    arguments: tuple[tuple[str, tuple[int, ...]], ...]


class TaskSearch:
    """The evolutionary search of one task's schedules.

    Args:
        kernel: what is tuned.
        target: what for.
        database: known schedules, which seed the population.
        cost_model: shared by all tasks.
        batch: candidates a round.
        population: size of the evolving population; 64 costs 2 to 5 s less a round than TVM's 512 and finds as much.
        seed: of the sampling.
    """

    def __init__(
        self,
        kernel: Kernel,
        target: tvm.target.Target,
        database: TuningDatabase,
        cost_model: Any,
        batch: int,
        seed: int,
        population: int = 64,
    ) -> None:
        load_tensor_intrinsics()
        self.kernel, self.target = kernel, target
        self._pending: list[Candidate] = []
        self._context = ms.TuneContext(
            mod=kernel.mod,
            target=target,
            space_generator="post-order-apply",
            search_strategy=EvolutionarySearch(
                population_size=population, init_min_unmeasured=max(batch, population // 4), genetic_num_iters=2
            ),
            task_name=kernel.name,
            rand_state=seed + 1,
            num_threads=1,
        ).clone()
        # MetaSchedule ends a search at its trial limit; the engine does the counting here.
        self._context.pre_tuning(
            max_trials=1_000_000,
            num_trials_per_iter=batch,
            design_spaces=self._context.generate_design_space(),
            database=database.records,
            cost_model=cost_model,
        )

    def propose(self) -> list[Candidate]:
        """The next round of candidates; empty when the space of schedules is exhausted."""
        found = self._context.generate_measure_candidates() or []
        self._pending = [Candidate(raw, tvm.ir.save_json(raw.sch.mod), _arguments(raw)) for raw in found]
        return self._pending

    def learn(self, timings: Sequence[KernelTiming], cost_model: Any) -> None:
        """Tells the search and the cost model how the candidates of the last round did, in the same order."""
        raw = [candidate.raw for candidate in self._pending]
        results = [_result(timing) for timing in timings]
        cost_model.update(self._context, raw, results)
        self._context.notify_runner_results(raw, results)


def _arguments(candidate: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    arguments = []
    for info in candidate.args_info:
        if not isinstance(info, TensorInfo):
            raise TypeError(f"kernel argument {info} is not a tensor")
        arguments.append((str(info.dtype), tuple(int(size) for size in info.shape)))
    return tuple(arguments)


def _result(timing: KernelTiming) -> Any:
    if timing.error:
        return RunnerResult(None, timing.error)
    return RunnerResult([value / 1e3 for value in timing.repeats_ms], None)
