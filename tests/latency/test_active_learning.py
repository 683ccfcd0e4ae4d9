"""Choosing what to measure: no part twice, none in vain, and better than chance."""

import random

import numpy as np
import pytest

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.active_learning import choose_batch
from tvmfbnet.latency.gaussian_process import GaussianProcess, default_scales
from tvmfbnet.latency.roofline import typical_base
from tvmfbnet.space.registry import load_space

SPACE = load_space("fbnet")
BLOCKS = SPACE.distinct_blocks()


def uncertainty(measured: list, parts: tuple) -> float:
    """Variance in squared milliseconds, of a usual processor."""
    process = GaussianProcess(measured, np.zeros(len(measured)), default_scales())
    return float(((np.exp(typical_base(parts).log_ms(parts)) * process.predict(parts)[1]) ** 2).sum())


def test_chosen_parts_leave_less_uncertainty_than_random_ones() -> None:
    chosen = list(choose_batch(BLOCKS, 20))
    assert len(set(chosen)) == 20
    by_luck = [uncertainty(random.Random(seed).sample(BLOCKS, 20), BLOCKS) for seed in range(10)]
    assert uncertainty(chosen, BLOCKS) < 0.95 * min(by_luck)


def test_measured_blocks_are_not_chosen_again_and_the_next_batch_builds_on_them() -> None:
    first = choose_batch(BLOCKS, 6)
    measured = dict.fromkeys(first, 1.0)
    assert choose_batch(BLOCKS, 10)[6:] == choose_batch(BLOCKS, 4, measured), (
        "below 8 samples the scales stay as they are"
    )
    assert len(choose_batch(BLOCKS, 1000, measured)) == len(BLOCKS) - 6


def test_identity_skips_are_never_chosen() -> None:
    parts = [SPACE.layers[2].cell("skip"), *BLOCKS[:3]]
    assert set(choose_batch(parts, 10)) == set(BLOCKS[:3])


def test_a_part_that_matters_more_draws_the_choice_to_it() -> None:
    far = BLOCKS[-2]
    assert choose_batch(BLOCKS, 1)[0] != far
    assert choose_batch(BLOCKS, 1, weights={far: 1000.0})[0] == far


def test_latencies_that_are_none_are_refused() -> None:
    with pytest.raises(LatencyError, match="finite"):
        choose_batch(BLOCKS, 2, dict.fromkeys(BLOCKS[:9], float("nan")))
