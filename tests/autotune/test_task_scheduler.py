"""Rounds go where the space gains most, after every task had its first."""

from types import SimpleNamespace

from tvmfbnet.autotune.task_scheduler import TaskState, next_task


def state(cells: int = 1, best_ms: float | None = 1.0, rounds: int = 1, **more: object) -> TaskState:
    return TaskState(SimpleNamespace(cells=cells), best_ms, rounds, **more)


def test_tasks_without_a_schedule_go_first_the_least_tried_of_them_before_the_others():
    tuned, once, never = state(cells=100), state(best_ms=None, rounds=1), state(best_ms=None, rounds=0)
    assert next_task([tuned, once, never], trials_left=True) is never
    assert next_task([tuned, once], trials_left=True) is once
    assert next_task([tuned, once], trials_left=False) is once, "a first round is not a matter of the budget"


def test_a_task_that_never_gave_a_valid_trial_is_given_up():
    assert next_task([state(best_ms=None, rounds=3)], trials_left=True) is None


def test_the_next_round_goes_to_the_cells_and_milliseconds_that_stand_to_gain():
    small, dear, common = state(), state(best_ms=5.0), state(cells=9)
    assert next_task([small, dear, common], trials_left=True) is common
    common.in_flight = True
    assert next_task([small, dear, common], trials_left=True) is dear
    dear.exhausted = True
    assert next_task([small, dear, common], trials_left=True) is small
    assert next_task([small, dear, common], trials_left=False) is None


def test_a_task_that_gains_nothing_falls_behind_and_comes_back_when_it_does():
    tired, other = state(cells=2), state(cells=2, best_ms=0.9)
    assert next_task([tired, other], trials_left=True) is tired
    tired.in_flight = True
    tired.finish_round(before_ms=1.0)
    assert not tired.in_flight and tired.rounds == 2
    assert next_task([tired, other], trials_left=True) is other
    tired.best_ms = 0.5
    tired.finish_round(before_ms=1.0)
    assert tired.stale == 0
    assert next_task([tired, other], trials_left=True) is other, "0.5 ms with a gain of a third against 0.9 of 0.3"


def test_what_its_search_promises_counts_instead_of_what_was_gained():
    hopeful = state(search=SimpleNamespace(promised_ms=lambda: 0.5))
    settled = state(search=SimpleNamespace(promised_ms=lambda: 1.0), gain=0.9)
    assert next_task([settled, hopeful], trials_left=True) is hopeful
