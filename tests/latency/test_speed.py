"""The device's speed factor: what it is, and when nothing may be decided on it."""

import random

import pytest

from tvmfbnet.latency.speed import speed_factor

THEN = [0.02, 0.03, 0.05, 0.01, 0.04]


def passes(factors, count=9, noise=0.005, seed=0):
    """What parts take in each pass, every part ``factors`` times its latency in the table."""
    rng = random.Random(seed)
    return [
        [f * then * rng.lognormvariate(0, noise) for f, then in zip(factors, THEN, strict=True)] for _ in range(count)
    ]


def test_an_equal_slowdown_of_all_kernels_gives_a_narrow_speed_factor():
    speed = speed_factor(passes([1.33] * 5), THEN, [1.0, 1.02])
    assert speed.known and speed.value == pytest.approx(1.33, rel=0.01)
    assert speed.interval.low < 1.33 < speed.interval.high and speed.interval.noise < 0.03
    told = speed.to_dict()
    assert (told["parts"], told["visits"], told["canary"], told["known"]) == (5, 9, [1.0, 1.02], True)
    assert told["parts_spread"] < 0.01


@pytest.mark.parametrize(
    ("now", "then", "doubt"),
    [
        (passes([1.0, 1.8, 1.1, 0.9, 1.6]), THEN, "uncertain by"),
        (passes([1.3] * 5, noise=0.3), THEN, "uncertain by"),
        (passes([3.0] * 5), THEN, "beyond what drift can be"),
        (passes([0.3] * 5), THEN, "beyond what drift can be"),
        ([part_ms[:2] for part_ms in passes([1.3] * 5)], THEN[:2], "only 2 measured part"),
    ],
    ids=["parts that do not agree", "passes that do not agree", "far too slow", "far too fast", "too few parts"],
)
def test_where_the_evidence_is_thin_the_factor_is_shown_but_not_used(now, then, doubt):
    speed = speed_factor(now, then, [1.0])
    assert not speed.known and doubt in speed.doubt
    assert "not used" in speed.describe()


def test_too_few_passes_and_no_parts_say_nothing_at_all():
    assert speed_factor(passes([1.0] * 5, count=5), THEN, [1.0]) is None
    assert speed_factor([[]] * 9, [], []) is None
    assert speed_factor([[0.0] * 5] * 9, THEN, [1.0]) is None
