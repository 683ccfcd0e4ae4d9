"""What a front's search knows about accuracy: one model for all bounds, by the accuracy predictor.

What is evaluated at one latency bound tells about archs at the others. :class:`SharedModel` is all that a search for a
front knows of the predictor (:mod:`tvmfbnet.search.predictor.model`); another model takes its place here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.predictor.features import ArchFeatures, Table, as_choices
from tvmfbnet.search.predictor.model import AccuracyModel, observed
from tvmfbnet.space.space import Space


@dataclass(frozen=True)
class Expected:
    """What a model expects of archs.

    Attributes:
        mean: accuracy of each, between 0 and 1.
        spread: one standard deviation of that, without the noise of an evaluation.
    """

    mean: Table
    spread: Table


class SharedModel:
    """Learns from evaluated archs, whatever bound they were evaluated for.

    Args:
        space: of all archs.
        sizes: what an arch's size is; parameters and MACs if None.
    """

    def __init__(self, space: Space, sizes: Sequence[AdditiveCosts] | None = None) -> None:
        self._features = ArchFeatures(space, sizes)

    def fit(self, evaluated: Mapping[Choice, float]) -> Callable[[Sequence[Choice]], Expected]:
        """What the accuracies of evaluated archs tell about any archs; it depends on nothing else.

        Args:
            evaluated: at least one arch with its accuracy as evaluated, noise included.
        """
        features, accuracies = self._features, np.array(list(evaluated.values()))
        posterior = AccuracyModel().fit(observed(features.of(as_choices(evaluated)), accuracies))

        def expected(archs: Sequence[Choice]) -> Expected:
            mean, spread = posterior.predict(features.of(as_choices(archs)))
            return Expected(np.clip(mean, 0.0, 1.0), spread)

        return expected
