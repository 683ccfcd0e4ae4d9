"""Measured latency is fed back into the choice of the arch."""

import pytest

from tvmfbnet.closed_loop import Proposal, close_loop
from tvmfbnet.errors import LatencyError

ARCHS = {f"arch{ms}": float(ms) for ms in range(1, 21)}


def loop(offset, target=10.0, start=10, rounds=4, accuracy=lambda ms: ms / 100):
    """A device on which a net of table latency t takes offset(t), and a search that picks the slowest that fits."""

    def choose(factor):
        fitting = [name for name, ms in ARCHS.items() if ms * factor <= target]
        if not fitting:
            raise LatencyError("none")
        name = max(fitting, key=ARCHS.__getitem__)
        return Proposal(name, ARCHS[name], accuracy(ARCHS[name]))

    first = Proposal(f"arch{start}", float(start), accuracy(start))
    return close_loop(first, target, lambda name: offset(ARCHS[name]), choose, rounds)


def test_a_net_that_meets_its_prediction_is_kept_after_one_measurement():
    assert [a.arch for a in loop(lambda t: 0.99 * t)] == ["arch10"]


@pytest.mark.parametrize(("factor", "expected"), [(1.3, "arch7"), (0.6, "arch16"), (2.5, "arch4")])
def test_an_offset_is_fed_back_and_the_choice_repeated(factor, expected):
    attempts = loop(lambda t: factor * t)
    assert attempts[-1].arch == expected and len(attempts) == 2
    assert attempts[0].measured_ms == pytest.approx(10 * factor)


def test_an_offset_that_is_not_proportional_takes_more_rounds():
    attempts = loop(lambda t: 3.0 + t)
    assert attempts[-1].arch == "arch7" and 2 <= len(attempts) <= 4
    assert attempts[-1].measured_ms == pytest.approx(10.0)


def test_where_nothing_meets_the_target_the_best_that_was_timed_is_kept():
    assert loop(lambda t: 50 * t)[-1].arch == "arch10", "the fastest arch of the space is too slow too"
    fast_enough = loop(lambda t: 5.0)  # always 5 ms: archs get slower by the table, then none is new
    assert fast_enough[-1].measured_ms == 5.0 and fast_enough[-1].accuracy == max(a.accuracy for a in fast_enough)
    assert len(loop(lambda t: 12 + 0.001 * t, rounds=3)) <= 3
