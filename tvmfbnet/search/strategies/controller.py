"""A controller trained by REINFORCE (Williams 1992), the kind of search that the FBNet paper compares with.

The policy is one softmax per layer. Its reward is MnasNet's (Tan et al. 2019, section 3.1, the soft form): accuracy,
times (value / bound)^-0.07 for every constraint that an arch violates. Only archs within all bounds are evaluated:
they are drawn from the policy given that they meet every bound and nearly reach one. Beside each of them the policy
draws once freely. Where that arch violates a bound it is not evaluated, as it cannot be the answer, and its reward is
the mean accuracy so far times those factors, so that the policy turns to archs within the bounds at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import Choice
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.draw import Window, draws_between, log_probability, sample_choices
from tvmfbnet.search.strategies.evaluating import ArchProblem, EvaluatingStrategy, uniform_log_probabilities
from tvmfbnet.search.strategies.trials import Trials

# MnasNet's exponent of what exceeds a bound.
_EXPONENT = -0.07
_LEARNING_RATE, _BASELINE_MOMENTUM = 0.1, 0.9
# Draws from the policy for one new arch. Where all were evaluated before, the policy is flattened, step by step.
_DRAWS, _FLATTER = 16, (1.0, 0.5, 0.25)
# Advantages are bounded below, as a violation may cost many standard deviations of the accuracies.
_LEAST_SPREAD, _LARGEST = 1e-6, 3.0


class Controller(EvaluatingStrategy):
    """Spends the whole budget on archs drawn from the policy, which learns from every one."""

    name = "controller"

    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """All archs that were evaluated."""
        trials, policy = Trials(problem), Policy(uniform_log_probabilities(problem.space))
        generator = torch.Generator().manual_seed(problem.seed)
        while trials.left:
            chosen: list[Choice] = []
            for _ in range(trials.together):
                chosen += _drawn_within(policy, problem, trials, generator) or trials.take_random(1)
            if not chosen:
                break
            rewards = trials.evaluate(chosen)
            free = sample_choices(policy.logs, len(chosen), generator)
            violating = [
                (choice, factor) for choice in free if (factor := reward_factor(choice, problem.constraints)) < 1
            ]
            policy.learn(chosen, rewards, violating)
        return trials.ranked()


def reward_factor(choice: Choice, constraints: Sequence[Constraint]) -> float:
    """What an accuracy is multiplied by to give the reward: 1 within all bounds."""
    uses = [constraint.model.value(choice) / constraint.bound for constraint in constraints]
    return math.prod(math.pow(use, _EXPONENT) for use in uses if use > 1)


def _drawn_within(policy: Policy, problem: ArchProblem, trials: Trials, generator: torch.Generator) -> list[Choice]:
    """One arch that was not evaluated, drawn from the policy given the constraints; none where that fails."""
    constraints, listed = problem.constraints, trials.free_listed()
    if listed is not None:
        if not listed:
            return []
        rows = policy.logs.tolist()
        weights = torch.tensor([log_probability(rows, choice) for choice in listed], dtype=torch.float64).softmax(0)
        return [trials.take(listed[int(torch.multinomial(weights, 1, generator=generator))])]
    for power in _FLATTER:
        logs = (power * policy.logs).log_softmax(dim=1)
        if constraints:
            binding = constraints[int(torch.randint(len(constraints), (), generator=generator))]
            tight = Window(binding.model, (1 - trials.tolerance) * binding.bound, binding.bound)
            windows = [tight, *(Window.up_to(other) for other in constraints if other is not binding)]
            drawn = draws_between(logs.tolist(), windows, _DRAWS, generator)
        else:
            drawn = sample_choices(logs, _DRAWS, generator)
        free = next((choice for choice in drawn if trials.is_free(choice)), None)
        if free is not None:
            return [trials.take(free)]
    return []


class Policy:
    """Independent softmax distributions over the candidates of each layer.

    Args:
        logs: (layers, most candidates), the log probabilities to begin with; -inf where there is no candidate.
    """

    def __init__(self, logs: torch.Tensor) -> None:
        self.logs = logs
        self._rewards: list[float] = []
        self._baseline: float | None = None

    def learn(
        self, choices: Sequence[Choice], rewards: Sequence[float], violating: Sequence[tuple[Choice, float]]
    ) -> None:
        """One step of REINFORCE: each layer's logits move by the reward above the baseline times the score function.

        Rewards are measured in standard deviations of the accuracies so far.

        Args:
            choices: archs that were evaluated.
            rewards: their accuracies.
            violating: archs that were not, with the factor that their violations cost.
        """
        self._rewards += rewards
        mean = sum(rewards) / len(rewards)
        before = mean if self._baseline is None else self._baseline
        self._baseline = _BASELINE_MOMENTUM * before + (1 - _BASELINE_MOMENTUM) * mean
        spread = float(torch.tensor(self._rewards, dtype=torch.float64).std(correction=0)) + _LEAST_SPREAD
        pairs = [*zip(choices, rewards, strict=True), *((c, self._baseline * factor) for c, factor in violating)]
        probabilities = self.logs.exp()
        gradient = torch.zeros_like(self.logs)
        for choice, reward in pairs:
            score = -probabilities
            score[torch.arange(len(choice)), torch.tensor(choice)] += 1
            gradient += max(-_LARGEST, (reward - self._baseline) / spread) * score
        self.logs = (self.logs + _LEARNING_RATE * gradient / len(choices)).log_softmax(dim=1)


STRATEGY = Controller()
