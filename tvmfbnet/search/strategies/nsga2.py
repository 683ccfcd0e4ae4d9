"""NSGA-II (Deb et al. 2002) as optuna implements it: accuracy and latency as two objectives, the bounds as constraints.

The answer is the most accurate arch within all bounds, though the sampler looks for a whole front. Among archs that
violate a bound NSGA-II compares the violation alone, so these need no evaluation and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tvmfbnet.extras import require
from tvmfbnet.search.cost_model import Choice
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.strategies.evaluating import ArchProblem, EvaluatingStrategy
from tvmfbnet.search.strategies.evolution import members_for
from tvmfbnet.search.strategies.trials import Trials

if TYPE_CHECKING:
    from optuna import Study, Trial

# How many archs the sampler may name that need no evaluation, before a random one takes its turn.
_PATIENCE = 50


class Nsga2(EvaluatingStrategy):
    """Spends the budget on the archs that optuna's sampler names; the first generation is random within the bounds."""

    name = "nsga2"
    extras = ("nsga2",)

    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """All archs that were evaluated."""
        require(*self.extras)
        with _quiet():
            trials = Trials(problem)
            sampling = _Sampling(problem, trials, members_for(trials.left))
            while trials.left and sampling.evaluate_next():
                pass
            return trials.ranked()


class _Sampling:
    """One study of optuna's, in memory."""

    def __init__(self, problem: ArchProblem, trials: Trials, members: int) -> None:
        import optuna

        self._problem, self._trials = problem, trials
        sampler = optuna.samplers.NSGAIISampler(population_size=members, seed=problem.seed)
        self._study: Study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        self._enqueued: set[Choice] = set()
        self._enqueue(trials.take_random(min(members, trials.left)))

    def evaluate_next(self) -> bool:
        """Evaluates as many archs as are best evaluated at once; False where there are none left."""
        asked: dict[Choice, Trial] = {}
        tries = 0
        while len(asked) < self._trials.together:
            if tries >= _PATIENCE and not self._enqueued:
                self._enqueue(self._trials.take_random(1))
                if not self._enqueued:
                    break
            choice, trial = self._ask()
            if choice in self._enqueued:
                self._enqueued.remove(choice)
                asked[choice] = trial
            elif self._trials.is_free(choice):
                asked[self._trials.take(choice)] = trial
            else:
                self._tell(trial, choice)
                tries += 1
        self._trials.evaluate(list(asked))
        for choice, trial in asked.items():
            self._tell(trial, choice)
        return bool(asked)

    def _enqueue(self, choices: Sequence[Choice]) -> None:
        for choice in choices:
            self._study.enqueue_trial({f"layer {layer}": index for layer, index in enumerate(choice)})
        self._enqueued.update(choices)

    def _ask(self) -> tuple[Choice, Trial]:
        trial = self._study.ask()
        layers = enumerate(self._problem.space.layers)
        return tuple(trial.suggest_categorical(f"layer {n}", range(len(layer.blocks))) for n, layer in layers), trial

    def _tell(self, trial: Trial, choice: Choice) -> None:
        """What is known of an arch: its accuracy, none where it violates a bound or is just being evaluated."""
        from optuna.trial import TrialState

        for constraint in self._problem.constraints:
            trial.set_constraint(constraint.quantity.name, constraint.model.value(choice) / constraint.bound - 1)
        accuracy = self._trials.accuracies.get(choice)
        if accuracy is None and all(constraint.met(choice) for constraint in self._problem.constraints):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, [accuracy or 0.0, self._problem.latency.value(choice)])


@contextmanager
def _quiet() -> Iterator[None]:
    """Lets optuna report nothing but errors for a while."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


STRATEGY = Nsga2()
