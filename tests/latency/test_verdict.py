"""The rule by which a measured latency meets a target: what it says, and how seldom it is wrong under noise."""

import math
import random
import statistics

import pytest

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.verdict import FLOOR, Interval, Verdict, median_interval


def verdict(low, value, high, target=10.0, slowdown=1.0):
    return Verdict(target, Interval(value, low, high, 9), slowdown)


def test_a_verdict_on_a_net_that_was_chosen_on_simulated_latencies_says_so_and_advises_to_measure():
    plain, judged = (Verdict(10.0, Interval(12.0, 11.9, 12.1, 9), 1.0, simulated) for simulated in (False, True))
    assert judged.describe() == f"{plain.describe()}; the net was chosen on simulated latencies, which no device took"
    assert judged.kind == plain.kind == "missed" and "measure the target's latencies" in judged.advice()
    assert judged.to_dict()["chosen_on_simulated"] is True and plain.to_dict()["chosen_on_simulated"] is False


@pytest.mark.parametrize(
    ("bounds", "kind", "phrase", "code"),
    [
        ((9.0, 9.5, 10.0), "met", "met", 0),
        ((9.0, 9.5, 10.001), "undecided", "undecided (noise 5.3 %)", 3),
        ((10.0, 10.5, 11.0), "undecided", "undecided (noise 4.8 %)", 3),
        ((10.001, 10.5, 11.0), "missed", "missed by 5.0 %", 3),
        ((12.0, 12.73, 13.0), "missed", "missed by 27.3 %", 3),
    ],
)
def test_wholly_at_or_below_is_met_wholly_above_is_missed_and_astride_is_undecided(bounds, kind, phrase, code):
    judged = verdict(*bounds)
    assert (judged.kind, judged.phrase, judged.exit_code) == (kind, phrase, code)
    assert judged.to_dict()["verdict"] == phrase and judged.to_dict()["measured_ms"] == bounds[1]
    assert bool(judged.advice()) == (kind != "met")


def test_the_demo_that_was_twelve_per_cent_too_slow_is_missed_however_slow_the_device_was():
    judged = verdict(0.1262, 0.1273, 0.1284, target=0.1139, slowdown=1.328)
    assert judged.phrase == "missed by 11.8 %" and judged.exit_code == 3
    assert "1.33x slower" in judged.advice(), "the speed factor is advice and decides nothing"


def test_advice_names_noise_only_where_there_is_noise():
    assert "too noisy" in verdict(8.0, 9.5, 11.0).advice()
    assert "quieter device" in verdict(9.8, 9.9, 10.1).advice()
    assert "lower latency target" in verdict(10.9, 11.0, 11.1).advice()


@pytest.mark.parametrize(("passes", "left_out"), [(6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (18, 4), (27, 7)])
def test_the_interval_is_that_of_a_median_whatever_the_noise(passes, left_out):
    interval = median_interval([float(2**number) for number in range(passes)], floor=0.0)
    assert (interval.low, interval.high) == (2.0**left_out, 2.0 ** (passes - 1 - left_out))
    assert interval.value == statistics.median(2.0**number for number in range(passes))
    # The widest that leaves at most 5 % out, by the binomial's own tail.
    tail = 2 * sum(math.comb(passes, k) for k in range(left_out + 1)) / 2**passes
    assert tail <= 0.05 < tail + 2 * math.comb(passes, left_out + 1) / 2**passes


def test_the_interval_is_never_narrower_than_a_devices_slow_drift():
    interval = median_interval([5.0] * 9)
    assert (interval.low, interval.value, interval.high) == pytest.approx((5 * (1 - FLOOR), 5.0, 5 * (1 + FLOOR)))


@pytest.mark.parametrize("passes", [[], [1.0] * 5, [1.0] * 8 + [math.nan], [1.0] * 8 + [0.0], [math.inf] * 9])
def test_too_few_passes_and_times_that_are_none_say_nothing(passes):
    with pytest.raises(LatencyError):
        median_interval(passes)


def test_a_net_is_not_called_too_slow_for_what_others_did_on_the_device():
    shared = median_interval([5.0] * 9)
    assert Verdict(1.2, shared).kind == "missed"
    widened = shared.reaching(1.1)  # single runs between the others' turns
    assert Verdict(1.2, widened).phrase == "undecided (noise 78.7 %)" and widened.value == 5.0
    assert "too noisy" in Verdict(1.2, widened).advice()
    assert Verdict(1.05, widened).kind == "missed", "even those are too slow"
    assert shared.reaching(4.6) == shared.reaching(None) == shared, "single runs of a quiet device are little faster"
    assert Verdict(4.9, shared.reaching(0.1)).kind != "met", "only the upper bound makes a met"


# Noise of a device. Each gives the medians of ``count`` passes to a net of latency 1 when nothing disturbs it.


def quiet(rng, count):
    return [rng.lognormvariate(0, 0.01) for _ in range(count)]


def restless(rng, count):
    return [rng.lognormvariate(0, 0.08) for _ in range(count)]


def loaded_now_and_then(rng, count):
    """Another program comes and goes, for several passes each time, and takes up to half of the machine."""
    values, load = [], 0.0
    for _ in range(count):
        if rng.random() < 0.3:
            load = rng.choice([0.0, rng.uniform(0, 1)])
        values.append((1 + load) * rng.lognormvariate(0, 0.02))
    return values


def drifting(rng, count):
    """A clock that wanders slowly, as under heat, by a few per cent about its mean."""
    phase, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.05)
    return [(1 + depth * math.sin(phase + 0.4 * n)) * rng.lognormvariate(0, 0.01) for n in range(count)]


def called(noise, latency, rng, looks=3):
    """The verdict that timing a net of this latency against a target of 1 ends with: up to three looks, pooled."""
    passes = []
    for _ in range(looks):
        passes += [latency * value for value in noise(rng, 9)]
        judged = Verdict(1.0, median_interval(passes))
        if judged.kind != "undecided":
            break
    return judged.kind


def shares(noise, latency, count=1500):
    rng = random.Random(f"{noise.__name__} {latency}")
    kinds = [called(noise, latency, rng) for _ in range(count)]
    return {kind: kinds.count(kind) / count for kind in ("met", "missed", "undecided")}


@pytest.mark.parametrize("noise", [quiet, restless, loaded_now_and_then, drifting])
@pytest.mark.parametrize("latency", [1.002, 1.03, 1.1])
def test_a_net_that_is_too_slow_is_called_met_in_less_than_one_in_thirty_cases(noise, latency):
    called_shares = shares(noise, latency)
    # Right at the target an interval of 95 % errs on this side in 2.5 % of cases a look; the floor takes most of them.
    assert called_shares["met"] < (0.034 if latency < 1.01 else 0.015), called_shares


@pytest.mark.parametrize("noise", [quiet, drifting])
def test_clear_cases_are_decided_on_a_quiet_device(noise):
    assert shares(noise, 0.9)["met"] > 0.97
    assert shares(noise, 1.1)["missed"] > 0.97


def test_where_noise_is_larger_than_the_distance_to_the_target_nothing_is_claimed():
    called_shares = shares(restless, 1.0)
    assert called_shares["undecided"] > 0.85 and called_shares["met"] < 0.05 and called_shares["missed"] < 0.05
