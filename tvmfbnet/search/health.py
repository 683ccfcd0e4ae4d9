"""How a search is doing: what theta has settled on so far, and whether it settled on nothing worth having.

Differentiable searches fail in known ways: ``skip`` takes over because it is cheap and trains fastest, or theta grows
certain on the noise of its first steps. Both are seen in theta long before the search ends.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.space.blocks import SKIP
from tvmfbnet.space.space import Space

# Mean normalised entropy below which theta has settled, and the temperature down to which that is too early.
_SETTLED, _EARLY_TEMPERATURE = 0.05, 2.0
# With constraints, only a distribution that stays this far below all of them can have collapsed.
_BELOW_BOUND = 0.8


@dataclass(frozen=True)
class Health:
    """Figures of one theta.

    Attributes:
        layer_entropy: of each layer's distribution, in nats.
        certainty: 1 minus the mean of the entropies over their largest possible values: 0 uniform, 1 settled.
        skip_mass: mean probability of ``skip`` over the layers where it computes nothing; 0 without such layers.
        expected_depth: mean number of layers that compute something.
        predicted_share: share of the expected latency that rests on predicted, not measured, cells.
    """

    layer_entropy: tuple[float, ...]
    certainty: float
    skip_mass: float
    expected_depth: float
    predicted_share: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "layer_entropy": list(self.layer_entropy)}


def health_of(log_probabilities: torch.Tensor, space: Space, costs: AdditiveCosts) -> Health:
    """The figures of a theta whose log softmax is (layers, candidates), -inf where there is no candidate."""
    rows = log_probabilities.detach().exp().tolist()
    entropies, normalised, skips = [], [], []
    predicted = costs.fixed_predicted
    expected = costs.fixed
    for layer, row, cells, guessed in zip(space.layers, rows, costs.cells, costs.predicted, strict=True):
        entropy = -sum(p * math.log(p) for p in row if p > 0)
        entropies.append(entropy)
        if len(layer.blocks) > 1:
            normalised.append(entropy / math.log(len(layer.blocks)))
        if SKIP in layer.blocks and layer.cell(SKIP).is_identity:
            skips.append(row[layer.blocks.index(SKIP)])
        expected += sum(p * ms for p, ms in zip(row, cells, strict=False))
        predicted += sum(p * ms for p, ms, guess in zip(row, cells, guessed, strict=False) if guess)
    return Health(
        tuple(entropies),
        1.0 - sum(normalised) / len(normalised) if normalised else 1.0,
        sum(skips) / len(skips) if skips else 0.0,
        len(space.layers) - sum(skips),
        predicted / expected if expected > 0 else 0.0,
    )


def collapse_of(
    health: Health, expected_ms: float, use: float | None, temperature: float, skip_limit: float
) -> str | None:
    """What has collapsed and what to change, or None.

    Args:
        health: of the theta after an epoch.
        expected_ms: its mean latency.
        use: its mean cost as a share of the bound, of the constraint that is used most; None without constraints. Near
            a bound that only skips can meet there is no collapse.
        temperature: of the epoch.
        skip_limit: largest mean probability of ``skip``.
    """
    if health.skip_mass > skip_limit and (use is None or use < _BELOW_BOUND):
        cure = "lower alpha" if use is None else "lower theta_lr"
        return (
            f"skip has taken over (mean probability {health.skip_mass:.0%}, {health.expected_depth:.1f} layers left, "
            f"expected {expected_ms:.4g} ms): {cure} or lengthen the warm-up"
        )
    if 1.0 - health.certainty < _SETTLED and temperature > _EARLY_TEMPERATURE:
        return (
            f"theta was certain ({health.certainty:.0%}) while the temperature was still {temperature:.2g}, so it "
            "settled on noise: lower theta_lr or lengthen the warm-up"
        )
    return None
