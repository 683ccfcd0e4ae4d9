"""Pareto mode of the differentiable search: one supernet and one theta for all latency bounds.

Theta is trained for the bound in the middle. At every bound archs are then drawn from it, given that their latency lies
just below the bound. That is what another Lagrange multiplier would do: among archs of one latency it changes no
probability ratio. Archs are evaluated with the supernet's weights, or by short trainings where the settings ask for
finalists, and all evaluations of all bounds feed one model (:mod:`tvmfbnet.search.front.shared_search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from tvmfbnet.progress import progress
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.derive import propose
from tvmfbnet.search.evaluator import Evaluator, Meter
from tvmfbnet.search.front.nets import front_bounds, require_enough
from tvmfbnet.search.front.shared_search import Front, search_front
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.plan import BACKWARD, SearchPlan
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.rungs import FINALISTS_FILE
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.short_training import ShortTraining
from tvmfbnet.search.strategies.evaluating import ArchProblem
from tvmfbnet.space.arch_text import parse_arch

# Archs judged with the supernet's weights per bound, at least.
_JUDGED = 4


def steered(problem: SearchProblem) -> SearchConfig:
    """The settings that the supernet and theta are trained with."""
    config = problem.config
    if config.front is None:
        return config
    bounds_ms = front_bounds(problem.latency, problem.constraints, config.front)
    return config.model_copy(update={"latency_target_ms": bounds_ms[len(bounds_ms) // 2]})


def plan_with_front(config: SearchConfig, images: int) -> SearchPlan:
    """The work of a differentiable search; with a front another number of archs is judged in the end."""
    plan = SearchPlan.of(config, images)
    if config.front is None:
        return plan
    used = min(images, config.train_images or images)
    for_weights = round(used * config.weight_share)
    validated = min(used - for_weights, config.validation_images or used)
    if config.finalists:
        screened = config.front * _screened(config, config.front)
        few = min(config.screen_images, for_weights) + min(config.screen_images, used - for_weights)
        return replace(plan, judged_images=screened * few + config.finalists * validated)
    return replace(plan, judged_images=_judged(config) * (min(config.bn_images, for_weights) + validated))


def choose_front_nets(searcher: Searcher, problem: SearchProblem) -> Front:
    """The front of a trained supernet.

    Raises:
        ConfigError: fewer finalists than bounds.
    """
    config, count = problem.config, problem.config.front or 1
    require_enough(config.finalists or _judged(config), count, "finalists")
    screen, evaluator = _evaluators(searcher, problem)
    evaluations = config.finalists or _judged(config)
    what = "training finalists" if config.finalists else "validating archs"
    with torch.no_grad():
        logs = searcher.supernet.log_probabilities().cpu().double()

    def explore(bounded: ArchProblem) -> None:
        """Evaluates the most probable archs near a bound, after a screening where trainings are dear."""
        generator = torch.Generator().manual_seed(config.seed)
        limits = (bounded.latency, bounded.constraints, config.samples, generator, bounded.tolerance)
        proposed, few = propose(logs, bounded.space, *limits), bounded.meter.affordable
        if screen is not None:
            proposed = screen.rank(proposed[: max(few, _screened(config, count))], "screening archs")
        bounded.meter.evaluate([candidate.arch for candidate in proposed[:few]])

    with progress(what, evaluations * evaluator.steps) as reporter:
        meter = Meter(evaluator, evaluations * evaluator.images, reporter)
        whole = ArchProblem(
            problem.space, problem.latency, problem.constraints, config.target_tolerance, config.seed, meter
        )
        return search_front(whole, front_bounds(problem.latency, problem.constraints, count), explore, logs)


def _judged(config: SearchConfig) -> int:
    return max(config.candidates, _JUDGED * (config.front or 1))


def _screened(config: SearchConfig, count: int) -> int:
    """Archs that are screened per bound."""
    return math.ceil(config.screened / count)


def _evaluators(searcher: Searcher, problem: SearchProblem) -> tuple[Judge | None, Evaluator]:
    """What screens archs, and what evaluates them."""
    config = searcher.config
    if not config.finalists:
        return None, _WithSharedWeights(Judge.of(searcher, config.bn_images, config.validation_images))
    trainings = ShortTraining.of(problem, problem.out / FINALISTS_FILE)
    return Judge.of(searcher, config.screen_images, config.screen_images), trainings


class _WithSharedWeights:
    """Accuracy with the supernet's weights, after batch-norm recalibration."""

    steps, together = 1, 1

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.images = (len(judge.calibration) + len(judge.judged)) / BACKWARD

    def evaluate(self, archs: Sequence[str], stepped: Callable[[], None] = lambda: None) -> Mapping[str, float]:
        """Judges each arch."""
        return {arch: self._judge.accuracy(parse_arch(arch, self._judge.space)) for arch in archs}
