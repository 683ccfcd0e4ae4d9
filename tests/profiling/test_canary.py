"""A canary tells a slow device from a slow kernel; outliers are dropped, counted, and never most of the samples."""

import json
import math

import pytest

from tvmfbnet.errors import DeviceError
from tvmfbnet.profiling.canary import HonestTimer, HonestTiming, Sample, drop_outliers, pooled, require_times
from tvmfbnet.profiling.device_timer import require_clock
from tvmfbnet.rpc.session import KernelTiming


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
    done = timer.measure(script([slow, ("phone", (3.0, 3.0, 3.0), 1.0, 1.05)]))
    assert (done.tries, done.steady, done.sample.repeats_ms) == (2, True, (3.0, 3.0, 3.0))
    assert max(rests) >= 2.0


def test_a_slow_canary_before_a_measurement_counts_as_much_as_one_after_it():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    assert timer.measure(measured((1.0, 1.0))).steady
    done = timer.measure(measured((1.2, 1.0), (1.0, 1.2), (1.0, 1.0)))
    assert (done.tries, done.steady, done.canary_ratio) == (3, True, 1.0)
    done = timer.measure(measured(*[(1.3, 1.0)] * 4))
    assert not done.steady and done.canary_ratio == pytest.approx(1.3)


def test_a_slow_first_canary_does_not_become_the_reference():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    assert timer.measure(measured((1.5, 1.0), (1.0, 1.0))).tries == 2
    assert timer.measure(measured((1.0, 1.05))).tries == 1
    slow_start = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    slow_start.measure(measured((1.5, 1.5)))  # nobody can know yet
    assert slow_start.measure(measured((1.0, 1.0))).steady
    assert slow_start.measure(measured((1.5, 1.5), (1.0, 1.0))).tries == 2


@pytest.mark.parametrize("repeat_ms", [0.0, -1.0, math.nan, math.inf])
def test_a_run_time_that_nothing_takes_is_a_device_error_and_no_latency(repeat_ms):
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    with pytest.raises(DeviceError, match=r"device phone: reported a run time of .* ms; its clock") as told:
        timer.measure(measured((1.0, 1.0), repeats=(3.0, repeat_ms, 3.0)))
    assert "\n" not in str(told.value)
    with pytest.raises(DeviceError):
        timer.measure(measured((1.0, repeat_ms)))
    trial = KernelTiming.of([3.0, repeat_ms])
    assert (trial.best_ms, trial.kind) == (None, "time") and "reported a run time" in trial.error


def test_a_call_with_nothing_to_compute_may_take_no_time_on_a_gpu():
    require_times("gpu", [0.0, 0.0], may_be_zero=True)
    require_times("gpu", [0.0, 0.1], may_be_zero=True)
    for wrong in ([], [0.0, -1.0], [float("nan")]):
        with pytest.raises(DeviceError):
            require_times("gpu", wrong, may_be_zero=True)


def test_a_clock_that_runs_backwards_or_stands_still_measures_nothing():
    require_clock("phone", [[(1, 10), (1, 20), (1, 20)]])
    require_clock("phone", [[(1, 999_999_999), (2, 5), (2, 6)]])
    with pytest.raises(DeviceError, match="backwards"):
        require_clock("phone", [[(1, 10), (1, 20), (1, 30)], [(2, 10), (1, 20), (2, 30)]])
    with pytest.raises(DeviceError, match="not at all"):
        require_clock("phone", [[(1, 10), (1, 10), (1, 10)]])


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


def test_the_reference_is_the_fastest_canary_of_the_run():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    values = measured((1.0, 1.0), (1.1, 1.2), (1.0, 1.0))
    assert timer.measure(values).steady
    assert timer.measure(values).tries == 2


def test_each_device_of_a_fleet_is_held_against_its_own_speed():
    timer = HonestTimer(drift_limit=0.1, sleep=lambda _: None)
    for device, canary in (("fast", 1.0), ("slow", 2.0), ("fast", 1.05), ("slow", 1.95)):
        assert timer.measure(measured((canary, canary), device=device)).tries == 1
    assert timer.measure(measured((2.0, 2.0), (1.0, 1.0), device="fast")).tries == 2


def test_pooled_passes_say_what_each_of_them_said():
    quiet = HonestTiming(Sample((1.0, 1.1), 1), 1.02, 1, steady=True)
    disturbed = HonestTiming(Sample((1.4,), 2), 0.7, 3, steady=False)
    both = pooled([quiet, disturbed])
    assert both.sample == Sample((1.0, 1.1, 1.4), 3)
    assert (both.canary_ratio, both.tries, both.steady) == (0.7, 4, False)
    assert pooled([quiet]) == quiet
    assert HonestTiming.from_dict(json.loads(json.dumps(disturbed.to_dict()))) == disturbed
