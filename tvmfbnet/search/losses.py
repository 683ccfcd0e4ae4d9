"""The latency-aware losses of the search, finite and smooth for every latency.

FBNet's term is ``log(LAT)^beta``, that is ``(log LAT)^beta``: it depends on the unit of LAT, is NaN below 1 and has
an infinite slope at 1. Here it is ``log(e + LAT / reference)^beta``: for LAT much above the reference the same as the
paper's with LAT in units of the reference; at LAT = 0 it is 1 with a finite slope; in between it rises smoothly.
The default reference, 0.001 ms, means that LAT counts in microseconds, as in the paper.
"""

from __future__ import annotations

import math

import torch

LOSS_FORMS = ("additive", "multiplicative")


def latency_term(latency_ms: torch.Tensor, beta: float, reference_ms: float) -> torch.Tensor:
    """``log(e + latency_ms / reference_ms) ** beta``: at least 1, rising, finite with its gradient for latency >= 0."""
    return torch.log(math.e + latency_ms / reference_ms) ** beta


def penalised_loss(
    task_loss: torch.Tensor, latency_ms: torch.Tensor, form: str, alpha: float, beta: float, reference_ms: float
) -> torch.Tensor:
    """The search's loss without a latency target.

    Args:
        task_loss: scalar (FBNet: cross entropy, CE).
        latency_ms: scalar, latency of the sampled mixture.
        form: ``additive``: loss + alpha * term; ``multiplicative``: loss * alpha * term (FBNet, eq. 2).
        alpha, beta: 0.2 and 0.6 in the paper.
        reference_ms: unit of the latency inside the logarithm, see the module's text.
    """
    term = latency_term(latency_ms, beta, reference_ms)
    return task_loss + alpha * term if form == "additive" else task_loss * alpha * term


def expected_cost(mix: torch.Tensor, cells: torch.Tensor, fixed: float) -> torch.Tensor:
    """What every arch has plus ``sum_l sum_i m[l, i] * COST[l, i]``, in the unit of the costs.

    Args:
        mix: (layers, candidates): a sampled mixture, or probabilities for the expectation.
        cells: (layers, candidates), 0 where there is no candidate.
        fixed: what every arch of the space has.
    """
    return fixed + (mix * cells).sum()
