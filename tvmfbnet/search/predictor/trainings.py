"""Evaluates what the predictor proposes, and says what is expected of all that was evaluated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import Choice, CostModel
from tvmfbnet.search.derive import ScoredArch, arch_string, best_first, choice_of, score_choices
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.search.predictor.optimiser import ArchOptimiser, History
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


def expected_archs(
    optimiser: ArchOptimiser,
    trainings: History,
    log_probabilities: torch.Tensor,
    space: Space,
    latency: CostModel,
    constraints: Sequence[Constraint],
) -> list[ScoredArch]:
    """The archs that were trained, each with the accuracy that is expected of it, best first.

    Args:
        optimiser: judges them.
        trainings: every training so far.
        log_probabilities: (layers, most candidates), of every candidate.
        space: the archs' space.
        latency: of every arch.
        constraints: what they meet.
    """
    trained = list(dict.fromkeys(choice for choice, _ in trainings))
    expected = {judged.choice: judged.accuracy for judged in optimiser.judge(trainings, trained)}
    scored = score_choices(trained, log_probabilities, space, latency, constraints)
    return best_first(replace(arch, accuracy=expected[choice_of(arch.arch, space)]) for arch in scored)
