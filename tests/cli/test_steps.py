"""A step is named as it begins and says how far it is, on a terminal and off it."""

import io
import sys
import time

import pytest
from rich.console import Console

from tvmfbnet.cli import terminal as shown
from tvmfbnet.progress import progress, step


@pytest.fixture
def stderr(monkeypatch):
    """Where people look, as a terminal or none, and what is written there."""

    def as_(terminal):
        stream = io.StringIO()
        monkeypatch.setattr(shown, "console", Console(file=stream, force_terminal=terminal, width=200, highlight=False))
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return as_


def test_a_step_with_news_is_never_silent_for_five_seconds():
    assert shown.SILENCE < 5


@pytest.mark.parametrize("terminal", [False, True])
def test_a_step_is_named_as_it_begins_and_shows_how_far_it_is(stderr, monkeypatch, terminal):
    stream = stderr(terminal)
    monkeypatch.setattr(shown, "SILENCE", 0.05)
    told = ["1 of 17: main.cc"]
    with step("building [the net]") as now:
        now.look = lambda: told[0]
        deadline = time.monotonic() + 20
        while "1 of 17: main.cc" not in stream.getvalue():
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.02)
        told[0] = "2 of 17: net.cc"
        while "2 of 17: net.cc" not in stream.getvalue():
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.02)
    said = stream.getvalue()
    assert "building [the net]" in said and (terminal or said.startswith("building [the net]: ...\n"))
    time.sleep(0.2)
    assert stream.getvalue() == said, "a step that has ended says nothing any more"


def test_a_step_may_lie_within_counted_work(stderr):
    stream = stderr(False)
    with progress("lowering", 3), step("starting the device"):
        pass
    assert stream.getvalue() == "lowering: 0/3 (0 s)\nstarting the device: ...\n"
