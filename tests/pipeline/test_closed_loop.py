"""Measured latency is fed back into the choice of the arch, and no correction makes a net look faster than it was."""

import pytest

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.verdict import Interval
from tvmfbnet.pipeline.closed_loop import Attempt, Proposal, Timed, close_loop, next_factor

ARCHS = {f"arch{ms}": ms / 10 for ms in range(10, 201)}


def timed(ms, noise=0.02, speed=None):
    return Timed(Interval(ms, ms * (1 - noise), ms * (1 + noise), 9), speed)


def factor(value, noise=0.01, parts=8):
    return SpeedFactor(Interval(value, value * (1 - noise), value * (1 + noise), 9), parts, 0.01, (1.0, 1.0), True)


def loop(device, target=10.0, start="arch100", rounds=4, accuracy=lambda ms: ms / 100):
    """A device on which a net of table latency t gives ``device(t)``, and a search that picks the slowest that fits."""

    def choose(scale):
        fitting = [name for name, ms in ARCHS.items() if ms * scale <= target]
        if not fitting:
            raise LatencyError("none")
        name = max(fitting, key=ARCHS.__getitem__)
        return Proposal(name, ARCHS[name], accuracy(ARCHS[name]))

    first = Proposal(start, ARCHS[start], accuracy(ARCHS[start]))
    return close_loop(first, target, lambda name: device(ARCHS[name]), choose, rounds)


def test_a_net_that_met_the_target_with_little_room_is_kept_after_one_measurement():
    assert [a.arch for a in loop(lambda t: timed(0.97 * t))] == ["arch100"]


@pytest.mark.parametrize("scale", [1.3, 2.5, 1.0, 0.6])
def test_a_table_that_is_wrong_is_corrected_and_the_target_met_with_little_room(scale):
    attempts = loop(lambda t: timed(scale * t))
    assert attempts[-1].verdict.kind == "met"
    assert 9.4 < attempts[-1].measured_ms <= 10 / 1.02 and len(attempts) == 2


def test_an_offset_that_is_not_proportional_takes_more_rounds():
    attempts = loop(lambda t: timed(3.0 + t))
    assert attempts[-1].verdict.kind == "met" and 2 <= len(attempts) <= 4
    assert attempts[-1].measured_ms > 9.4


def test_where_nothing_meets_the_target_the_fastest_is_kept_and_called_missed():
    attempts = loop(lambda t: timed(50 * t))
    assert attempts[-1].verdict.kind == "missed" and attempts[-1].arch == "arch100"
    assert len(loop(lambda t: timed(12 + 0.001 * t), rounds=3)) <= 3


def test_of_nets_that_met_the_target_the_most_accurate_is_kept():
    attempts = loop(lambda t: timed(5.0))  # always 5 ms: archs get slower by the table, then none is new
    assert attempts[-1].accuracy == max(a.accuracy for a in attempts) and attempts[-1].verdict.kind == "met"


def test_the_demo_of_a_loaded_machine_never_chooses_a_slower_net():
    """Target 0.1139, first net 0.1254 as measured, and a speed factor of 1.328: once that made the next net slower."""
    for speed in (None, factor(1.328), factor(1.328, noise=0.2), factor(1.328, parts=1), factor(0.8)):
        attempt = Attempt("a", 0.1139, 0.5, timed(0.1254, speed=speed), 0.1139)
        assert attempt.verdict.kind == "missed"
        assert 0.1139 * next_factor(attempt) > 0.1254, "what is chosen next must be faster than what was measured"


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("measured", [0.5, 0.8, 0.9, 0.97, 1.0, 1.03, 1.3])
@pytest.mark.parametrize("speed", [None, factor(1.4), factor(0.7), factor(1.4, noise=0.3)])
def test_a_slower_net_is_chosen_only_where_the_latency_as_measured_leaves_room(noise, measured, speed):
    attempt = Attempt("a", 1.0, 0.5, timed(measured, noise, speed), 1.0)
    scale = next_factor(attempt)
    if scale is not None and scale < 1:  # archs of a longer latency by the table fit then
        assert attempt.verdict.kind == "met" and measured * (1 + noise) < 0.95
        assert scale >= measured, "never on less than what was measured"
        assert speed is None or speed.known


def test_a_fast_moment_of_the_device_is_not_taken_for_room():
    fast = Attempt("a", 1.0, 0.5, timed(0.8, speed=factor(0.8)), 1.0)
    assert next_factor(fast) is None, "at the table's speed the net takes 1.0: there is no room"
    assert next_factor(Attempt("a", 1.0, 0.5, timed(0.8, speed=factor(0.8, noise=0.2)), 1.0)) is None, "not known well"
    slow = Attempt("a", 1.0, 0.5, timed(0.8, speed=factor(1.3)), 1.0)
    assert next_factor(slow) >= 0.8, "a slow device gives no more room than was measured"


def test_a_device_that_others_use_decides_about_no_other_net():
    shared = Attempt("a", 1.0, 0.5, Timed(Interval(4.8, 0.97, 5.0, 9)), 1.0)
    assert shared.verdict.kind == "undecided" and next_factor(shared) is None
    slow = Attempt("a", 1.0, 0.5, Timed(Interval(4.8, 2.0, 5.0, 9)), 1.0)
    assert slow.verdict.kind == "missed" and 2.0 < next_factor(slow) < 4.8, "what is certain is that it takes 2.0"


def test_an_attempt_tells_the_latency_as_measured_and_the_factor_beside_it():
    told = Attempt("a", 1.0, 0.5, timed(1.2, speed=factor(1.25)), 1.0).to_dict()
    assert (told["verdict"], told["measured_ms"]) == ("missed by 20.0 %", 1.2)
    assert told["speed_factor"]["value"] == 1.25 and told["at_table_speed_ms"] == pytest.approx(0.96)
    unsure = Attempt("a", 1.0, 0.5, timed(1.2, speed=factor(1.25, noise=0.3)), 1.0).to_dict()
    assert unsure["at_table_speed_ms"] is None and unsure["speed_factor"]["known"] is False
