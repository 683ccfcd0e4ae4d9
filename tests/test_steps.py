"""A step is named as it begins and is never silent for long, on a terminal and off it."""

import io
import time

import pytest
from rich.console import Console

from tvmfbnet import progress as shown
from tvmfbnet import steps
from tvmfbnet.progress import progress
from tvmfbnet.steps import step


@pytest.fixture
def stderr(monkeypatch):
    """What is written where people look; ``monkeypatch`` makes it a terminal or none."""

    def as_(terminal):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=200, highlight=False)
        monkeypatch.setattr(shown, "console", console)
        monkeypatch.setattr(steps, "console", console)
        return stream

    return as_


def test_no_more_than_five_seconds_pass_without_a_sign_of_life():
    assert steps.HEARTBEAT < 5


@pytest.mark.parametrize("terminal", [False, True])
def test_a_step_is_named_as_it_begins_and_shows_how_far_it_is(stderr, monkeypatch, terminal):
    stream = stderr(terminal)
    monkeypatch.setattr(steps, "HEARTBEAT", 0.05)
    with step("building [the net]") as now:
        assert "building [the net] ...\n" in stream.getvalue()
        now.note("3 of 17: main.cc")
        deadline = time.monotonic() + 20
        while "3 of 17: main.cc (" not in stream.getvalue():
            assert time.monotonic() < deadline, stream.getvalue()
            time.sleep(0.02)
    ended = stream.getvalue()
    time.sleep(0.2)
    assert stream.getvalue() == ended, "a step that has ended says nothing any more"


def test_a_step_within_other_live_progress_is_plain(stderr):
    stream = stderr(True)
    with progress("lowering", 3), step("starting the device"):
        pass
    assert "starting the device ..." in stream.getvalue()


def test_an_error_ends_the_step(stderr):
    stream = stderr(False)
    with pytest.raises(ValueError, match="broken"), step("trying"):
        raise ValueError("broken")
    assert stream.getvalue() == "trying ...\n"
