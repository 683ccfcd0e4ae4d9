"""Latencies are shown in one unit a table, and a figure never begins with zeros that say nothing."""

import pytest

from tvmfbnet.latency.units import MICROSECONDS, MILLISECONDS, latency_text, unit_for


@pytest.mark.parametrize(
    ("latencies_ms", "unit"),
    [
        ([0.0309], MICROSECONDS),
        ([0.74, 0.8], MICROSECONDS),
        ([20.5, 0.2, 3.0], MILLISECONDS),  # most of them begin with a figure
        ([0.02, 0.3, 4.0], MICROSECONDS),
        ([None, 0.0, 8.0], MILLISECONDS),  # what is unknown or nothing has no say
        ([], MILLISECONDS),
    ],
)
def test_latencies_side_by_side_have_the_unit_in_which_most_begin_with_no_zero(latencies_ms, unit):
    assert unit_for(latencies_ms) is unit


@pytest.mark.parametrize(
    ("latency_ms", "shown"),
    [(0.0309055, "30.91 µs"), (0.00023918, "0.2392 µs"), (0.8, "800 µs"), (20.0, "20 ms"), (123456.7, "123457 ms")],
)
def test_a_latency_has_four_digits_and_no_exponent(latency_ms, shown):
    assert latency_text(latency_ms) == shown


def test_no_figure_that_is_shown_loses_its_sign_or_value():
    assert MILLISECONDS.number(0.0) == "0"
    assert MICROSECONDS.number(-0.00125, 2) == "-1.2"
    assert MILLISECONDS.number(1200.0) == "1200"
