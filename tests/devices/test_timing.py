"""A canary tells a slow device from a slow kernel; outliers are dropped, counted, and never most of the samples."""

import pytest

from tvmfbnet.devices.timing import HonestTimer, HonestTiming, Sample, drop_outliers, pooled


def test_a_preempted_repeat_is_dropped_and_counted():
    sample = drop_outliers([1.0, 1.01, 0.99, 1.0, 1.02, 8.0])
    assert sample.outliers == 1
    assert max(sample.repeats_ms) == 1.02


def test_fast_repeats_are_never_outliers():
    assert drop_outliers([1.0, 1.0, 1.0, 1.0, 0.2]).outliers == 0


def test_a_device_that_is_slow_half_of_the_time_is_not_cleaned_up():
    samples = [1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0]
    assert drop_outliers(samples).repeats_ms == tuple(samples)


def script(values):
    """A function that gives one value after another."""
    left = iter(values)
    return lambda: next(left)


def measured(*canaries, repeats=(3.0, 3.0, 3.0), device="phone"):
    """Measurements one after another, each between the two canaries given for it."""
    return script([(device, repeats, before, after) for before, after in canaries])


def test_an_undisturbed_measurement_is_made_once():
    rests = []
    timer = HonestTimer(drift_limit=0.1, cooldown_seconds=0.5, sleep=rests.append)
    done = timer.measure(measured((1.0, 1.02)))
    assert (done.tries, done.steady, done.sample.repeats_ms) == (1, True, (3.0, 3.0, 3.0))
    assert done.canary_ratio == pytest.approx(1.02)
    assert rests == [0.5]


def test_what_was_measured_during_a_drift_is_measured_again_after_a_rest():
    rests = []
    timer = HonestTimer(drift_limit=0.1, sleep=rests.append)
    slow = ("phone", (9.0, 9.0, 9.0), 1.0, 1.5)
    done = timer.measure(script([slow, ("phone", (3.0, 3.0, 3.0), 1.2, 1.0)]))
    assert (done.tries, done.steady, done.sample.repeats_ms) == (2, True, (3.0, 3.0, 3.0))
    assert max(rests) >= 2.0


def test_a_device_that_does_not_come_back_is_marked():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    done = timer.measure(measured((1.0, 1.4), *[(1.4, 1.4)] * 10))
    assert not done.steady
    assert done.tries == 4
    assert done.canary_ratio == pytest.approx(1.4)


def test_rest_is_limited_over_all_measurements_and_then_they_are_only_marked():
    rests = []
    timer = HonestTimer(drift_limit=0.1, rest_seconds=7.0, sleep=rests.append)
    values = measured((1.0, 1.4), *[(1.4, 1.4)] * 10)
    first, second = (timer.measure(values) for _ in range(2))
    assert not first.steady and not second.steady
    assert (first.tries, second.tries) == (3, 1)
    assert sum(rests) <= 7.0


def test_the_reference_is_the_first_canary_of_the_run():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    values = measured((1.0, 1.0), (1.1, 1.2), (1.0, 1.0))
    assert timer.measure(values).steady
    assert timer.measure(values).tries == 2


def test_each_device_of_a_fleet_is_held_against_its_own_speed():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    for device, canary in (("fast", 1.0), ("slow", 2.0), ("fast", 1.05), ("slow", 1.95)):
        assert timer.measure(measured((canary, canary), device=device)).tries == 1
    assert timer.measure(measured((2.0, 2.0), (1.0, 1.0), device="fast")).tries == 2


def test_visits_say_together_what_each_of_them_said():
    quiet = HonestTiming(Sample((1.0, 1.1), 1), 1.02, 1, steady=True)
    disturbed = HonestTiming(Sample((1.4,), 2), 0.7, 3, steady=False)
    both = pooled([quiet, disturbed])
    assert both.sample == Sample((1.0, 1.1, 1.4), 3)
    assert (both.canary_ratio, both.tries, both.steady) == (0.7, 4, False)
    assert pooled([quiet]) == quiet
