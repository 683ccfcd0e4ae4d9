"""Searches a templated kernel's knobs: mostly those that the cost model predicts to be fastest, some at random.

The first round also tries the best knobs of kernels that differ only in their epilogue.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.half_sums import FloatSums
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.machines import AnyKnobs, ways_of
from tvmfbnet.autotune.templates import apply_knobs
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.rpc.session import KernelTiming, last_line

if TYPE_CHECKING:
    from tvmfbnet.autotune.cost_model import Array

# Share of a round drawn at random, so that the cost model also sees candidates that it rates poorly.
_EXPLORE = 0.25
# Knobs taken over from kernels that differ only in their epilogue.
SEEDS = 2


class TemplateSearch:
    """Proposes knobs for one kernel.

    Args:
        kernel: to tune.
        shape: of the kernel.
        cost_model: shared by all kernels.
        tried: knobs that earlier runs timed.
        batch: candidates per round.
        seed: of the random share.
        seeds: knobs to try first, the best of kernels that differ only in their epilogue.
    """

    def __init__(
        self,
        kernel: Kernel,
        shape: KernelShape,
        cost_model: TrialCostModel,
        tried: Iterable[AnyKnobs],
        batch: int,
        seed: int,
        seeds: Iterable[AnyKnobs] = (),
    ) -> None:
        self.kernel, self._shape, self.batch = kernel, shape, batch
        self._cost_model, self._float_sums = cost_model, FloatSums(kernel)
        self._random = random.Random(f"{seed} {kernel.key}")
        tried_keys = {knobs.key for knobs in tried}
        self._untried = [knobs for knobs in ways_of(shape, cost_model.machine) if knobs.key not in tried_keys]
        self._seeds = [knobs.key for knobs in seeds]
        self._rows: Array = cost_model.rows(shape, self._untried)
        self._pending: list[ScheduleCandidate] = []
        self._promise: tuple[tuple[int, int], float | None] = ((-1, -1), None)

    @property
    def shape(self) -> KernelShape:
        """What the kernel computes."""
        return self._shape

    def propose(self, most: int | None = None) -> Sequence[ScheduleCandidate]:
        """The next round, ``most`` candidates at most; empty when all knobs were tried."""
        if not self._untried:
            return []
        count = min(self.batch if most is None else most, self.batch, len(self._untried))
        order = self._seeds_first(self._order())
        explored = min(round(_EXPLORE * count), len(order) - count)
        chosen = order[: count - explored] + self._random.sample(order[count - explored :], explored)
        self._pending = [self._candidate(self._untried[index]) for index in chosen]
        proposed = set(chosen)
        kept = [index for index in range(len(self._untried)) if index not in proposed]
        self._untried, self._rows = [self._untried[index] for index in kept], self._rows[kept]
        return self._pending

    def _seeds_first(self, order: list[int]) -> list[int]:
        seeds, self._seeds = self._seeds, []
        at = {self._untried[index].key: index for index in order} if seeds else {}
        first = [at[key] for key in seeds if key in at]
        return first + [index for index in order if index not in first]

    def _order(self) -> list[int]:
        """Indices of the untried knobs, the most promising first."""
        slowness = self._cost_model.slowness(self._rows)
        if slowness is not None:
            return [int(index) for index in np.argsort(slowness, kind="stable")]
        # Before the first fit the heuristic ranks; noise keeps a round from being variants of a single tile.
        scores = [
            self._cost_model.heuristic(self._shape, knobs) + self._random.uniform(0, 0.3) for knobs in self._untried
        ]
        return sorted(range(len(scores)), key=scores.__getitem__)

    def _candidate(self, knobs: AnyKnobs) -> ScheduleCandidate:
        try:
            reference = self._float_sums.reference if knobs.sum_bytes else None
            return ScheduleCandidate.of(apply_knobs(self.kernel.mod, self._shape, knobs), knobs, reference)
        except Exception as error:  # TVM raises many kinds; the trial is recorded as failed
            return ScheduleCandidate(None, knobs=knobs, error=last_line(str(error)))

    def learn(self, timings: Sequence[KernelTiming]) -> None:
        """Passes the last round to the cost model."""
        for candidate, timing in zip(self._pending, timings, strict=True):
            if candidate.knobs is not None:
                self._cost_model.add(self._shape, candidate.knobs, timing.best_ms)

    def promised_ms(self) -> float | None:
        """The cost model's fastest prediction among untried knobs."""
        if not self._untried:
            return None
        state = (self._cost_model.fits, len(self._untried))
        if self._promise[0] != state:
            predicted = self._cost_model.predict_ms(self._shape, self._rows)
            self._promise = (state, None if predicted is None else float(predicted.min()))
        return self._promise[1]
