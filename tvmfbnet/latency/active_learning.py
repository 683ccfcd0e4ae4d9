"""Active learning: choosing the parts whose measurement improves latency prediction most.

Greedy: the next part is the one whose measurement lowers the summed variance of all parts most (Cohn, Neural Network
Exploration Using Optimal Experiment Design, 1996). The variance is in milliseconds, as a net's error is the sum of its
parts' errors: 10 % of a large block matters more than 10 % of a small one. It comes from the smooth half of the
regressor: the uncertainty of the base model's costs, plus the Gaussian process on top. It does not depend on the
outcome of a measurement, so a whole batch is chosen before any of it is timed; but every measurement improves the
estimate of the variance, so several batches choose better than one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.latency.ensemble import fit_ensemble
from tvmfbnet.latency.gaussian_process import Similarity, default_scales, noise_of
from tvmfbnet.latency.kernel_sums import KernelBase, if_complete
from tvmfbnet.latency.regressor import MIN_SAMPLES, usable
from tvmfbnet.latency.roofline import Base, typical_base
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def choose_batch(
    parts: Sequence[NetPart],
    count: int,
    measured_ms: Mapping[NetPart, float] | None = None,
    weights: Mapping[NetPart, float] | None = None,
    seed: int = 0,
    among: Collection[NetPart] | None = None,
    kernel_ms: Mapping[NetPart, float] | None = None,
    element_bytes: int = FLOAT32.bytes,
) -> tuple[NetPart, ...]:
    """The ``count`` parts whose measurement lowers the uncertainty about all of ``parts`` most, most informative first.

    Args:
        parts: what the table must cover; identity skips need no measurement and are ignored.
        count: how many to choose; fewer are returned if fewer are left.
        measured_ms: latencies of parts measured already, milliseconds; they are not chosen again.
        weights: how much a part's uncertainty matters, such as the number of layers it is a candidate in; 1 by default.
        seed: of the fit to ``measured_ms`` (with 8 or more measurements; until then, a typical processor is assumed).
        among: restricts the choice to these; None for all of ``parts``.
        kernel_ms: summed latency of each part's kernels, timed alone; used only if it covers all of ``parts``.
        element_bytes: of one activation or weight.

    Raises:
        LatencyError: latencies in ``measured_ms`` are negative or not finite.
    """
    wanted = [part for part in parts if not part.is_identity]
    measured = {part: ms for part, ms in (measured_ms or {}).items() if not part.is_identity}
    times = if_complete(kernel_ms, wanted)
    if times is not None:  # parts measured for another space may lack them, and are left out then
        measured = {part: ms for part, ms in measured.items() if part in times}
    every = list(dict.fromkeys([*wanted, *measured]))
    log_ms, covariance, noise = _uncertainty(every, measured, seed, times, element_bytes)
    covered = set(parts)
    part_weights = np.array([(weights or {}).get(part, 1.0) if part in covered else 0.0 for part in every])
    importance = part_weights * np.exp(2.0 * log_ms)
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
    element_bytes: int,
) -> tuple[Array, Array, float]:
    """Expected log latencies, their covariance before any measurement, and the noise variance of a measurement."""
    typical, scales = typical_base(every, element_bytes), default_scales()
    base: Base | KernelBase = typical if kernel_ms is None else KernelBase(typical, kernel_ms)
    log_ms = base.log_ms(every)
    if len(measured) >= MIN_SAMPLES:
        kept, latency = usable(list(measured), list(measured.values()))
        ensemble = fit_ensemble(kept, latency, seed, None, 1, kernel_ms, element_bytes)
        base, scales = ensemble.base, ensemble.process.scales
        log_ms = np.mean(ensemble.predict(every)[:2], axis=0)
    return log_ms, base.prior_covariance(every) + Similarity(every, every).covariance(scales), noise_of(scales)


def _after_measuring(covariance: Array, index: int, noise: float) -> Array:
    column = covariance[:, index]
    return np.asarray(covariance - np.outer(column, column) / (column[index] + noise))
