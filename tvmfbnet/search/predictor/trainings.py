"""Evaluates what the predictor proposes: new archs, and archs that were evaluated before once more."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tvmfbnet.search.cost_model import Choice
from tvmfbnet.search.derive import arch_string
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.space.space import Space


def evaluate_choices(
    proposed: Sequence[Choice], trained: Collection[Choice], meter: Meter, space: Space
) -> list[tuple[Choice, float]]:
    """Archs and their accuracies, one for each time that an arch was proposed.

    Args:
        proposed: the archs.
        trained: those evaluated before: they are evaluated once more, with other noise.
        meter: evaluates, and allows as many as are proposed.
        space: the archs' space.
    """
    texts = {choice: arch_string(choice, space) for choice in proposed}
    new = [choice for choice in dict.fromkeys(proposed) if choice not in trained]
    accuracies = meter.evaluate([texts[choice] for choice in new])
    again, trainings = list(proposed), [(choice, accuracies[texts[choice]]) for choice in new]
    for choice in new:
        again.remove(choice)
    return trainings + [(choice, meter.evaluate_again(texts[choice])) for choice in again]
