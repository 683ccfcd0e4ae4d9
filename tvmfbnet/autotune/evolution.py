"""MetaSchedule's evolutionary search, for kernels that no template fits: unusual ones, on GPUs those of integers.

MetaSchedule's stock task scheduler searches, builds and measures sequentially, and restarts its builders every round;
:mod:`tvmfbnet.autotune.engine` drives the search instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.compiler.intrinsics import load_tensor_intrinsics
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.rpc.session import KernelTiming


def new_cost_model() -> Any:
    """The gradient-boosted model that ranks candidates; learns from every trial of every task."""
    return ms.cost_model.XGBModel(num_warmup_samples=100, num_tuning_cores=1)


class EvolutionSearch:
    """Evolutionary search for one kernel's schedules.

    Args:
        kernel: to tune.
        target: to tune for.
        database: known schedules, which seed the population.
        cost_model: shared by all tasks.
        batch: candidates per round.
        seed: of the sampling.
        population: size of the evolving population; 64 saves 2 to 5 s per round over TVM's 512 at equal results.
    """

    shape = None

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
        load_tensor_intrinsics(of_gpus=target.kind.name not in ("llvm", "c"))
        self._cost_model = cost_model
        self._pending: list[Any] = []
        in_c = _scalar_space() if target.kind.name == "c" else None
        self._context = ms.TuneContext(
            mod=kernel.mod,
            target=target if in_c is None else tvm.target.Target({"kind": "llvm", "num-cores": 1}),
            space_generator=in_c or "post-order-apply",
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

    def propose(self, most: int | None = None) -> Sequence[ScheduleCandidate]:
        """The next round of candidates, ``most`` at most; empty when the schedule space is exhausted."""
        self._pending = list(self._context.generate_measure_candidates() or [])[:most]
        return [ScheduleCandidate.of(pending.sch) for pending in self._pending]

    def learn(self, timings: Sequence[KernelTiming]) -> None:
        """Passes the timings of the last round, in the same order, to the search and the cost model."""
        results = [_result(timing) for timing in timings]
        self._cost_model.update(self._context, self._pending, results)
        self._context.notify_runner_results(self._pending, results)

    def promised_ms(self) -> float | None:
        """None: the cost model scores candidates but predicts no times."""
        return None


def _scalar_space() -> Any:
    """MetaSchedule's CPU space without vectors and parallel loops, which C lacks; MetaSchedule has no space for C."""
    rules = [
        ms.schedule_rule.ParallelizeVectorizeUnroll(
            max_jobs_per_core=-1, max_vectorize_extent=-1, unroll_max_steps=[0, 16, 64, 512]
        )
        if isinstance(rule, ms.schedule_rule.ParallelizeVectorizeUnroll)
        else rule
        for rule in ms.schedule_rule.ScheduleRule.create("llvm")
    ]
    mutators = {
        mutator: probability
        for mutator, probability in ms.mutator.Mutator.create("llvm").items()
        if not isinstance(mutator, ms.mutator.MutateParallel)
    }
    return ms.space_generator.PostOrderApply(
        sch_rules=rules, postprocs=ms.postproc.Postproc.create("llvm"), mutator_probs=mutators
    )


def _result(timing: KernelTiming) -> Any:
    if timing.error:
        return RunnerResult(None, timing.error)
    return RunnerResult([value / 1e3 for value in timing.repeats_ms], None)
