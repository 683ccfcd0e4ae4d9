"""The choice among the archs of a search: at its end, and again later, as more samples or for other latencies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.errors import StorageError
from tvmfbnet.files import clear_leftovers, folder_lock, make_folder
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.costs import Costs
from tvmfbnet.search.derive import ScoredArch, propose, sample_distinct
from tvmfbnet.search.finalists import Finalists
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.result import read_result, reopen
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.space import Space
from tvmfbnet.training.identity import identity_of
from tvmfbnet.training.workers import is_first

# Settings that affect how a search runs, not its result.
_FREE_SETTINGS = frozenset(
    {"checkpoint_steps", "device", "threads", "save_memory", "loggers", "collapse_skip", "stop_on_collapse"}
)
_FILES = ("search.ckpt", "history.json", "metrics.csv", "archs.json", "search.json", "finalists.json")


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Locks the folder for this search and removes partial files that a killed one left."""
    make_folder(out)
    with folder_lock(out, "a search") if is_first() else nullcontext():
        if is_first():
            clear_leftovers(*(out / name for name in _FILES))
        yield


def identity_of_searcher(searcher: Searcher) -> dict[str, Any]:
    """Everything that must match for a search to resume."""
    return identity_of_search(searcher.config, searcher.space, searcher.costs, searcher.data.fingerprint)


def identity_of_search(config: SearchConfig, space: Space, costs: Costs, fingerprint: str) -> dict[str, Any]:
    """The same of a search of a data set with that fingerprint."""
    settings = {name: value for name, value in config.model_dump().items() if name not in _FREE_SETTINGS}
    return identity_of(settings, space, fingerprint, **{"latency table": costs.to_dict()})


def final_judge(searcher: Searcher) -> Judge:
    """Judges the archs that are left at the end."""
    return Judge.of(searcher, searcher.config.bn_images, searcher.config.validation_images)


def choose(searcher: Searcher, costs: Costs, target_ms: float | None, out: Path) -> tuple[ScoredArch, ...]:
    """Samples archs from the learned theta and validates them, first on few images; most accurate first.

    Where the settings ask for finalists, some archs are trained and compared in the end.
    """
    config = searcher.config
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        logs = searcher.supernet.log_probabilities()
    tolerance = config.target_tolerance
    proposed = propose(logs, searcher.space, costs, target_ms, config.samples, generator, tolerance)[: config.screened]
    if len(proposed) > config.candidates:
        judge = Judge.of(searcher, config.screen_images, config.screen_images)
        proposed = judge.rank(proposed, "screening archs")[: config.candidates]
    ranked = final_judge(searcher).rank(proposed, "validating archs")
    if config.finalists:
        kept = (identity_of_searcher(searcher), out / "finalists.json")
        ranked = Finalists(searcher, costs, target_ms, *kept).choose(ranked)
    return tuple(ranked)


def sample_run(
    run: Path,
    count: int,
    seed: int,
    target_ms: float | None = None,
    validate: bool = False,
    data_spec: str | None = None,
) -> list[ScoredArch]:
    """Distinct archs from the distribution that a finished search learned, most probable first.

    Args:
        run: the search's folder, or a run folder that holds it as ``search/``.
        count: how many; fewer come back where the distribution hardly gives more.
        seed: of the sampling.
        target_ms: leave out slower archs.
        validate: also give each one's accuracy, with the supernet's weights and recalibrated batch norm.
        data_spec: where the search's data set lies now, if it has moved.

    Raises:
        StorageError: no finished search there, or its checkpoint is missing.
        DataError: validation was asked for and the search's data set is missing, or another one was given.
        LatencyError: the target cannot be met.
    """
    folder, record = read_result(run)
    space, costs = Space.from_dict(record["space"]), Costs.from_dict(record["costs"])
    if target_ms is not None:
        costs.require_reachable(target_ms)
    widest = max(len(row) for row in record["theta"])
    padded = [row + [float("-inf")] * (widest - len(row)) for row in record["theta"]]
    logs = torch.tensor(padded, dtype=torch.float64).log_softmax(dim=1)
    generator = torch.Generator().manual_seed(seed)
    drawn = sample_distinct(logs, space, costs, target_ms, count, generator)
    if not validate:
        return drawn
    with reopen(folder, record, data_spec) as searcher:
        ranked = final_judge(searcher).rank(drawn, "validating archs")
        return sorted(ranked, key=lambda c: (-c.probability, c.arch))


def choose_again(
    run: Path, factor: float = 1.0, target_ms: float | None = None, data_spec: str | None = None
) -> list[ScoredArch]:
    """The choice among archs of a finished search, repeated as if all latencies were ``factor`` times the table's.

    Args:
        run: the search's folder.
        factor: measured by predicted latency of a net that was tried.
        target_ms: the latency target; the search's own if None.
        data_spec: where the search's data set lies now, if it has moved.

    Returns:
        Validated archs within the target, most accurate first; ``predicted_ms`` is the corrected latency.

    Raises:
        StorageError: no finished search there, or it had no latency target.
        LatencyError: no arch meets the target with the corrected latencies.
    """
    folder, record = read_result(run)
    costs = Costs.from_dict(record["costs"]).scaled(factor)
    target = record["latency_target_ms"] if target_ms is None else target_ms
    if target is None:
        raise StorageError(f"the search in {folder} had no latency target to meet")
    costs.require_reachable(target)
    with locked_folder(folder), reopen(folder, record, data_spec) as searcher:
        return list(choose(searcher, costs, target, folder))
