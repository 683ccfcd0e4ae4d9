"""Archs of a finished search: further samples of its distribution, and its choice repeated for other constraints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tvmfbnet.errors import StorageError
from tvmfbnet.search.constraints import Bound, Constraint, merged, require_feasible
from tvmfbnet.search.derive import ScoredArch, sample_distinct
from tvmfbnet.search.problem import locked_folder, reopened_problem
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.result import constraint_from, constraints_from, latency_of, read_result
from tvmfbnet.search.strategies import strategy_named
from tvmfbnet.space.space import Space


def sample_run(
    run: Path,
    count: int,
    seed: int,
    target_ms: float | None = None,
    validate: bool = False,
    data_spec: str | None = None,
    bounds: Sequence[Bound] = (),
) -> list[ScoredArch]:
    """Distinct archs from the distribution that a finished search learned, most probable first.

    Args:
        run: the search's folder, or a run folder that holds it as ``search/``.
        count: how many; fewer come back where the distribution hardly gives more.
        seed: of the sampling.
        target_ms: leave out slower archs.
        validate: also give each one's accuracy as the search's strategy judges it.
        data_spec: where the search's data set lies now, if it has moved.
        bounds: leave out archs beyond these.

    Raises:
        StorageError: no finished search there, or its checkpoint is missing.
        DataError: validation was asked for and the search's data set is missing, or another one was given.
        ConstraintError: no arch meets the bounds.
    """
    folder, record = read_result(run)
    space, latency = Space.from_dict(record["space"]), latency_of(record)
    given = [*bounds] if target_ms is None else [Bound(LATENCY, target_ms), *bounds]
    constraints = merged((), [constraint_from(record, bound) for bound in given])
    require_feasible(constraints)
    widest = max(len(row) for row in record["theta"])
    padded = [row + [float("-inf")] * (widest - len(row)) for row in record["theta"]]
    logs = torch.tensor(padded, dtype=torch.float64).log_softmax(dim=1)
    generator = torch.Generator().manual_seed(seed)
    drawn = sample_distinct(logs, space, latency, constraints, count, generator)
    if not validate:
        return drawn
    with reopened_problem(folder, record, data_spec) as problem:
        judged = strategy_named(record["strategy"]).judge(problem, drawn)
        return sorted(judged, key=lambda c: (-c.probability, c.arch))


def choose_again(
    run: Path, factor: float = 1.0, target_ms: float | None = None, data_spec: str | None = None
) -> list[ScoredArch]:
    """The choice among archs of a finished search, repeated as if all latencies were ``factor`` times the table's.

    All other constraints of the search stay.

    Args:
        run: the search's folder.
        factor: measured by predicted latency of a net that was tried.
        target_ms: the latency target; the search's own if None.
        data_spec: where the search's data set lies now, if it has moved.

    Returns:
        Validated archs within the constraints, most accurate first; ``predicted_ms`` is the corrected latency.

    Raises:
        StorageError: no finished search there, or it had no latency target.
        ConstraintError: no arch meets the constraints with the corrected latencies.
    """
    folder, record = read_result(run)
    latency = latency_of(record).scaled(factor)
    target = record["latency_target_ms"] if target_ms is None else target_ms
    if target is None:
        raise StorageError(f"the search in {folder} had no latency target to meet")
    constraints = merged(constraints_from(folder, record), [Constraint(latency, target)])
    require_feasible(constraints)
    with locked_folder(folder), reopened_problem(folder, record, data_spec) as problem:
        return strategy_named(record["strategy"]).choose_again(problem, latency, constraints)
