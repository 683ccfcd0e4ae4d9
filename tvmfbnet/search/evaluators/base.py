"""What judges the archs of a search: a kind of evaluator makes an :class:`Evaluator` of a problem and a budget.

A kind holds no state. What it must do before the first arch is judged, such as training a supernet, it does in
:meth:`EvaluatorKind.prepare`, resumably, and the budget pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.evaluator import Evaluator
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.problem import SearchProblem


class RememberingEvaluator(Evaluator, Protocol):
    """An evaluator that keeps its answers in a file."""

    @property
    def accuracies(self) -> Mapping[str, float]:
        """Of every arch that was evaluated, by any process at any time."""
        ...


class EvaluatorKind(Protocol):
    """A way to judge whole archs."""

    @property
    def name(self) -> str:
        """As in ``--evaluator``."""
        ...

    @property
    def does(self) -> str:
        """What judging is called in progress, such as ``training archs``."""
        ...

    def prepared_images(self, config: SearchConfig, images: int, budget_images: float) -> float:
        """What :meth:`prepare` spends of a budget.

        Args:
            config: the settings.
            images: training images of the data set.
            budget_images: of the whole search.

        Raises:
            ConfigError: the budget is too small.
        """
        ...

    def plan(self, config: SearchConfig, images: int, budget_images: float, done: int = 0) -> SearchPlan:
        """The work of a budget, preparation included; with ``done`` archs judged, what is left.

        Args:
            config, images, budget_images: as of :meth:`prepared_images`.
            done: how many archs were judged.
        """
        ...

    def prepare(self, problem: SearchProblem, budget_images: float) -> None:
        """Does what must be done before archs are judged, or continues it."""
        ...

    def open(self, problem: SearchProblem, budget_images: float, file: Path, keep: bool = True) -> RememberingEvaluator:
        """The evaluator, once :meth:`prepare` is done.

        Args:
            problem: what it is for.
            budget_images: of the whole search.
            file: where answers are kept.
            keep: whether new answers are written.

        Raises:
            StorageError: what was prepared is missing or damaged.
        """
        ...
