"""What a search strategy is: it gets a problem and a folder, and returns archs, best first.

A strategy resumes from its own file in the folder, spends a budget that is counted in training images, proposes no arch
that violates a constraint, and leaves what it needs to choose again. The search around it
(:mod:`tvmfbnet.search.search`) checks the input, locks the folder and writes the result files, which are the same for
all strategies. A strategy that judges whole archs has most of this from
:class:`tvmfbnet.search.strategies.evaluating.EvaluatingStrategy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.front.nets import FrontNet
from tvmfbnet.search.health import Health
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.problem import SearchProblem


@dataclass(frozen=True)
class Outcome:
    """What a strategy ends with.

    Attributes:
        ranked: archs within the constraints, most accurate first; at least one.
        theta: the distribution to sample further archs from: logits, one row per layer.
        expected_ms: mean latency of archs sampled from theta.
        health: figures of theta.
        learns_theta: whether theta was learned, so that a uniform one is a bad sign.
        spent_images: the cost, in training images.
        front: where the settings ask for one, the nets of the front, fastest first; those of ``ranked`` are then all
            archs that were evaluated.
    """

    ranked: tuple[ScoredArch, ...]
    theta: list[list[float]]
    expected_ms: float
    health: Health
    learns_theta: bool
    spent_images: float
    front: tuple[FrontNet, ...] = ()


class SearchStrategy(Protocol):
    """A way to search archs. Strategies hold no state: everything is in the problem and its folder."""

    @property
    def name(self) -> str:
        """As in ``--strategy``."""
        ...

    @property
    def state_file(self) -> str:
        """The file in the search's folder that it resumes from."""
        ...

    @property
    def accuracy_label(self) -> str:
        """What its accuracies are, as a column's title."""
        ...

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of the package (:mod:`tvmfbnet.extras`) that it needs."""
        ...

    def recorded_identity(self, path: Path) -> Mapping[str, Any] | None:
        """The identity in a state file; StorageError where the file is damaged."""
        ...

    def plan(self, config: SearchConfig, images: int) -> SearchPlan:
        """The work of a whole search on a data set of ``images`` training images; its cost is the budget."""
        ...

    def search(self, problem: SearchProblem) -> Outcome:
        """Searches, or resumes the search that the problem's folder holds."""
        ...

    def choose_again(
        self, problem: SearchProblem, latency: AdditiveCosts, constraints: tuple[Constraint, ...]
    ) -> list[ScoredArch]:
        """The choice of a finished search, repeated with other latencies and constraints; best first.

        What had to be trained for the first choice is not trained again; the rest costs at most a quarter of the
        budget, or what choosing cost at first.
        """
        ...

    def judge(self, problem: SearchProblem, archs: Sequence[ScoredArch]) -> list[ScoredArch]:
        """Any archs with the accuracy that a finished search gives them; writes nothing."""
        ...
