"""Which task gets the next round of trials.

Every task gets a first round. After that the rounds go where the space gains most: to the task with the largest
(cells it serves) x (time it is expected to lose by another round).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmfbnet.autotune.candidate import Search
from tvmfbnet.autotune.plan import TuningTask

# Rounds without one valid trial after which a task is given up, with a warning.
_HOPELESS_ROUNDS = 3


@dataclass
class TaskState:
    """How far a task has come.

    Attributes:
        task: the task.
        best_ms: its fastest valid trial; None as long as there is none.
        rounds: how many it has had.
        stale: rounds since the last one that gained anything.
        gain: share of the time that a round took off lately.
        search: what proposes its candidates, once it has begun.
        exhausted: there is nothing left to propose.
        in_flight: a round of it is being built or timed.
    """

    task: TuningTask
    best_ms: float | None
    rounds: int
    stale: int = 0
    gain: float = 0.3
    search: Search | None = None
    exhausted: bool = False
    in_flight: bool = False

    @property
    def valid(self) -> bool:
        """Whether it has a schedule."""
        return self.best_ms is not None

    def expected_gain_ms(self) -> float:
        """Milliseconds that one more round is expected to take off the space's cells."""
        best = self.best_ms or 0.0
        promised = self.search.promised_ms() if self.search is not None else None
        share = self.gain if promised is None else max(0.0, 1.0 - promised / best) + 0.05
        return self.task.cells * best * share * 0.5**self.stale

    def finish_round(self, before_ms: float | None) -> None:
        """A round has ended; ``before_ms`` is what was the best before it."""
        self.rounds += 1
        self.in_flight = False
        if before_ms is not None and self.best_ms is not None:
            gained = 1.0 - self.best_ms / before_ms
            self.gain, self.stale = 0.5 * (self.gain + gained), (self.stale + 1 if gained < 0.01 else 0)


def next_task(states: Sequence[TaskState], trials_left: bool) -> TaskState | None:
    """The task whose next round promises most, or None when nothing is worth (or allowed) another round.

    Args:
        states: all tasks.
        trials_left: whether the budget allows more than first rounds.
    """
    free = [state for state in states if not state.exhausted and not state.in_flight]
    first = [state for state in free if not state.valid and state.rounds < _HOPELESS_ROUNDS]
    if first:
        return max(first, key=lambda state: -state.rounds)
    ready = [state for state in free if state.valid]
    return max(ready, key=TaskState.expected_gain_ms) if ready and trials_left else None
