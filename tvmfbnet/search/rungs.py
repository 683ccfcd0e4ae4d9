"""Successive halving of the last choice: many archs are trained very briefly, the best of them for longer.

Every rung costs about the same (Jamieson and Talwalkar 2016): each next one trains a third as many archs for three
times the steps, and all together cost what ``finalists`` trainings of ``finalist_steps`` would.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmfbnet.search.config import MOST_RUNGS, SearchConfig

# A rung has this times the archs of the next one.
FACTOR = 3
# Accuracies of the last rung, and of those before it.
FINALISTS_FILE = "finalists.json"
SHORTER_FILES = tuple(f"finalists-{number}.json" for number in range(1, MOST_RUNGS))


@dataclass(frozen=True)
class Rung:
    """Trainings of one length.

    Attributes:
        archs: how many trainings.
        steps: of each.
    """

    archs: int
    steps: int

    @property
    def all_steps(self) -> int:
        """Steps of all its trainings."""
        return self.archs * self.steps


def rungs_of(config: SearchConfig) -> list[Rung]:
    """The rungs of a search's last choice, shortest trainings first; none where it has no finalists."""
    if not config.finalists:
        return []
    rungs = []
    for below in reversed(range(config.finalist_rungs)):
        steps = max(1, config.finalist_steps // FACTOR**below)
        archs = config.finalists * config.finalist_steps // (config.finalist_rungs * steps)
        rungs.append(Rung(max(1, archs), steps))
    return rungs
