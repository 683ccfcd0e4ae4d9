"""Choosing which parts to measure, so that the latency of nets can be predicted best.

Greedy: the next part is the one whose measurement lowers the summed variance of all parts most (Cohn, Neural Network
Exploration Using Optimal Experiment Design, 1996). It is the variance in milliseconds, as a net's error is the sum of
its parts' errors: a tenth of a large block matters more than a tenth of a small one. What is unknown about a part is
taken from the regressor's smooth half: what is open about the costs of its base, plus the Gaussian process on top. That
does not depend on what a measurement will show, so a whole batch is chosen before the first of it is timed; but it is
better known the more was measured, so several batches choose better than one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvmfbnet.latency.ensemble import fit_members
from tvmfbnet.latency.gaussian_process import Similarity, default_scales, noise_of
from tvmfbnet.latency.kernel_sums import KernelBase, if_complete
from tvmfbnet.latency.regressor import MIN_SAMPLES, usable
from tvmfbnet.latency.roofline import Base, usual_base
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def choose_batch(
    parts: Sequence[NetPart],
    count: int,
    known: Mapping[NetPart, float] | None = None,
    weights: Mapping[NetPart, float] | None = None,
    seed: int = 0,
    among: Collection[NetPart] | None = None,
    kernel_ms: Mapping[NetPart, float] | None = None,
) -> tuple[NetPart, ...]:
    """The ``count`` parts whose measurement lowers the uncertainty about all of ``parts`` most, most telling first.

    Args:
        parts: what the table must cover; identity skips are passed over, they need no measurement.
        count: how many to choose; fewer come back where fewer are left.
        known: latency in milliseconds of parts that were measured already; they are not chosen again.
        weights: how much a part's uncertainty matters, such as in how many layers it is a candidate; 1 if not named.
        seed: of the fit that learns from ``known`` (from 8 measurements on; a usual processor serves before).
        among: the only ones of ``parts`` that may be chosen; all of them if None.
        kernel_ms: what the kernels of parts take by themselves; used where that is known of all of them.

    Raises:
        LatencyError: latencies in ``known`` are no latencies.
    """
    wanted = [part for part in parts if not part.is_identity]
    measured = {part: ms for part, ms in (known or {}).items() if not part.is_identity}
    times = if_complete(kernel_ms, wanted)
    if times is not None:  # what was measured for another space may lack them; it is no reason to do without
        measured = {part: ms for part, ms in measured.items() if part in times}
    every = list(dict.fromkeys([*wanted, *measured]))
    log_ms, covariance, noise = _uncertainty(every, measured, seed, times)
    covered = set(parts)
    counted = np.array([(weights or {}).get(part, 1.0) if part in covered else 0.0 for part in every])
    importance = counted * np.exp(2.0 * log_ms)
    for index, part in enumerate(every):
        if part in measured:
            covariance = _after_measuring(covariance, index, noise)
    chosen: list[int] = []
    open_indices = [
        index for index, part in enumerate(every) if part not in measured and (among is None or part in among)
    ]
    while open_indices and len(chosen) < count:
        gains = importance @ covariance[:, open_indices] ** 2 / (np.diag(covariance)[open_indices] + noise)
        best = open_indices.pop(int(gains.argmax()))
        chosen.append(best)
        covariance = _after_measuring(covariance, best, noise)
    return tuple(every[index] for index in chosen)


def _uncertainty(
    every: Sequence[NetPart],
    measured: Mapping[NetPart, float],
    seed: int,
    kernel_ms: Mapping[NetPart, float] | None,
) -> tuple[Array, Array, float]:
    """Log latencies as far as known, their covariance before any measurement, and the variance of one's noise."""
    usual, scales = usual_base(every), default_scales()
    base: Base | KernelBase = usual if kernel_ms is None else KernelBase(usual, kernel_ms)
    log_ms = base.log_ms(every)
    if len(measured) >= MIN_SAMPLES:
        kept, latency = usable(list(measured), list(measured.values()))
        members = fit_members(kept, latency, seed, forests=1, kernel_ms=kernel_ms)
        base, scales = members.base, members.process.scales
        log_ms = np.mean(members.predict(every)[:2], axis=0)
    return log_ms, base.doubt(every) + Similarity(every, every).covariance(scales), noise_of(scales)


def _after_measuring(covariance: Array, index: int, noise: float) -> Array:
    column = covariance[:, index]
    return np.asarray(covariance - np.outer(column, column) / (column[index] + noise))
