"""Picks the task that gets the next round of trials.

Every task gets a first round. Further rounds go where the space gains most: to the task with the largest
(cells it serves) x (time that another round is expected to save).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmfbnet.autotune.candidate import Search
from tvmfbnet.autotune.plan import TuningTask

# A task without a valid trial after this many rounds is given up, with a warning.
_MAX_FAILED_ROUNDS = 3


@dataclass
class TaskState:
    """Progress of a task.

    Attributes:
        task: the task.
        best_ms: its fastest valid trial; None before the first.
        rounds: completed rounds.
        stale: rounds since the last improvement.
        gain: relative improvement per recent round (moving average).
        search: proposes its candidates; None before its first round.
        exhausted: whether nothing is left to propose.
        in_flight: whether a round of it is being built or timed.
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
        """Milliseconds that one more round is expected to save over all cells of the space."""
        best = self.best_ms or 0.0
        promised = self.search.promised_ms() if self.search is not None else None
        share = self.gain if promised is None else max(0.0, 1.0 - promised / best) + 0.05
        return self.task.cells * best * share * 0.5**self.stale

    def finish_round(self, before_ms: float | None) -> None:
        """Records the end of a round; ``before_ms`` is the best time before it."""
        self.rounds += 1
        self.in_flight = False
        if before_ms is not None and self.best_ms is not None:
            gained = 1.0 - self.best_ms / before_ms
            self.gain, self.stale = 0.5 * (self.gain + gained), (self.stale + 1 if gained < 0.01 else 0)


def next_task(states: Sequence[TaskState], trials_left: bool) -> TaskState | None:
    """The task whose next round promises the largest gain, or None when no task may have another round.

    Args:
        states: all tasks.
        trials_left: whether the budget allows more than first rounds.
    """
    free = [state for state in states if not state.exhausted and not state.in_flight]
    first = [state for state in free if not state.valid and state.rounds < _MAX_FAILED_ROUNDS]
    if first:
        return max(first, key=lambda state: -state.rounds)
    ready = [state for state in free if state.valid]
    return max(ready, key=TaskState.expected_gain_ms) if ready and trials_left else None
