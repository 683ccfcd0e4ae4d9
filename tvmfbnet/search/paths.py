"""Which paths through single blocks a supernet's weights learn from: the setting ``weight_paths``.

``theta`` draws each layer's block for itself, as the paper does. ``window`` draws whole archs, in proportion to their
probability, from those that meet the constraints nearly: the ones that the search chooses among in the end. ``fair``
takes every block of a layer once before it takes one again (Chu et al. 2021, FairNAS, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.draw import Window, draws_between

Path = list[int]
"""One candidate's index per layer."""


def window_paths(
    log_probabilities: torch.Tensor,
    constraints: Sequence[Constraint],
    share: float,
    count: int,
    generator: torch.Generator,
) -> list[Path]:
    """Archs from P(a) that some constraint nearly binds, repeats included.

    Args:
        log_probabilities: theta's, (layers, candidates).
        constraints: what all meet; at least one.
        share: how far below a bound an arch may lie, as a share of it; more where there is none so near.
        count: how many.
        generator: on the CPU.

    Raises:
        ConstraintError: no arch meets the constraints.
    """
    rows = log_probabilities.detach().cpu().double().tolist()
    while share < 1:
        drawn: list[Path] = []
        for binding in constraints:
            tight = Window(binding.model, (1 - share) * binding.bound, binding.bound)
            windows = [tight, *(Window.up_to(other) for other in constraints if other is not binding)]
            drawn += [list(choice) for choice in draws_between(rows, windows, count, generator)]
        if drawn:
            order = torch.randint(len(drawn), (count,), generator=generator).tolist()
            return [drawn[index] for index in order]
        share *= 2
    raise ConstraintError("no arch that meets the constraints was drawn, so no path to train weights on")


def fair_paths(candidates: Sequence[int], generator: torch.Generator) -> list[Path]:
    """As many paths as the largest layer has candidates: each block of every layer once (of smaller layers, at least).

    Args:
        candidates: how many each layer has.
        generator: on the CPU.
    """
    count = max(candidates)
    columns = []
    for size in candidates:
        rounds = [torch.randperm(size, generator=generator).tolist() for _ in range(-(-count // size))]
        columns.append([index for numbers in rounds for index in numbers][:count])
    return [list(path) for path in zip(*columns, strict=True)]
