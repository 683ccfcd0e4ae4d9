"""A canary tells a slow device from a slow kernel; outliers are dropped, counted, and never most of the samples."""

import pytest

from tvmfbnet.devices.timing import HonestTimer, drop_outliers


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


def test_an_undisturbed_measurement_is_made_once():
    rests = []
    timer = HonestTimer(script([1.0, 1.02]), drift_limit=0.1, cooldown_seconds=0.5, sleep=rests.append)
    done = timer.measure(lambda: [3.0, 3.0, 3.0])
    assert (done.tries, done.steady, done.sample.repeats_ms) == (1, True, (3.0, 3.0, 3.0))
    assert done.canary_ratio == pytest.approx(1.02)
    assert rests == [0.5]


def test_what_was_measured_during_a_drift_is_measured_again_after_a_rest():
    rests = []
    measured = script([[9.0, 9.0, 9.0], [3.0, 3.0, 3.0]])
    timer = HonestTimer(script([1.0, 1.5, 1.0]), drift_limit=0.1, sleep=rests.append)
    done = timer.measure(measured)
    assert (done.tries, done.steady, done.sample.repeats_ms) == (2, True, (3.0, 3.0, 3.0))
    assert max(rests) >= 2.0


def test_a_device_that_does_not_come_back_is_marked():
    timer = HonestTimer(script([1.0, *[1.4] * 10]), drift_limit=0.1, sleep=lambda _: None)
    done = timer.measure(lambda: [4.0, 4.0, 4.0])
    assert not done.steady
    assert done.tries == 4
    assert done.canary_ratio == pytest.approx(1.4)


def test_rest_is_limited_over_all_measurements_and_then_they_are_only_marked():
    rests = []
    timer = HonestTimer(script([1.0, *[1.4] * 10]), drift_limit=0.1, rest_seconds=7.0, sleep=rests.append)
    first, second = (timer.measure(lambda: [2.0] * 5) for _ in range(2))
    assert not first.steady and not second.steady
    assert (first.tries, second.tries) == (3, 1)
    assert sum(rests) <= 7.0


def test_the_reference_is_the_first_canary_of_the_run():
    canary = script([1.0, 1.0, 1.2, 1.0])
    timer = HonestTimer(canary, drift_limit=0.1, sleep=lambda _: None)
    assert timer.measure(lambda: [1.0, 1.0, 1.0]).steady
    assert timer.measure(lambda: [1.0, 1.0, 1.0]).tries == 2
