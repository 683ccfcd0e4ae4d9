"""A whole search in a folder: resumes where it stopped, then picks the net. What ``tvmfbnet search`` calls.

Every strategy (:mod:`tvmfbnet.search.strategies`) leaves ``archs.json`` (the judged archs, best first) and
``search.json`` (the outcome: :mod:`tvmfbnet.search.result`), beside files of its own. Started by torchrun, several
processes work together (:mod:`tvmfbnet.training.workers`), and the first of them writes the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tvmfbnet import process
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.places import check_data
from tvmfbnet.errors import ConfigError
from tvmfbnet.extras import require
from tvmfbnet.files import write_json
from tvmfbnet.latency.origin import UNKNOWN, LatencyOrigin
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.progress import say, step
from tvmfbnet.run_files import LatencyOriginRecord
from tvmfbnet.search.choice import choose_again, sample_run
from tvmfbnet.search.clock import spent_time
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import CostSources
from tvmfbnet.search.derive import ScoredArch, choice_of, search_constraints
from tvmfbnet.search.front.nets import FrontNet, front_bounds, write_front
from tvmfbnet.search.notices import Notice, few_images, notices_of
from tvmfbnet.search.problem import SearchProblem, identity_of_search, locked_folder, require_own
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.quantities.size import weight_bytes
from tvmfbnet.search.result import Best, SearchRecord, advice_for, read_result
from tvmfbnet.search.strategies import STRATEGY_NAMES, strategy_named
from tvmfbnet.search.strategies.base import Outcome
from tvmfbnet.search.strategies.differentiable import reopen
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import task_named
from tvmfbnet.training.checkpoint import seeded
from tvmfbnet.training.memory import keep_freed_memory, memory_advice
from tvmfbnet.training.workers import Workers

__all__ = ["SearchResult", "choose_again", "read_result", "reopen", "sample_run", "search"]


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Args:
        best: the most accurate candidate within the constraints.
        candidates: all validated candidates, most accurate first.
        theta: final theta, one row per layer; zeros where the strategy learns none.
        expected_ms: mean latency of archs sampled from theta.
        measured_share: share of the best arch's latency that was measured, not predicted.
        out: the folder.
        notices: what to know about it, such as that it learned nothing.
        strategy: how archs were searched.
        spent_images: the cost, in training images.
        spent_seconds: the time that it took, all starts together.
        front: the nets of the front, fastest first; empty where the settings ask for none.
        latency_source: where the latencies come from.
    """

    best: ScoredArch
    candidates: tuple[ScoredArch, ...]
    theta: tuple[tuple[float, ...], ...]
    expected_ms: float
    measured_share: float
    out: Path
    notices: tuple[Notice, ...] = ()
    strategy: str = "differentiable"
    spent_images: float = 0.0
    spent_seconds: float = field(default=0.0, compare=False)
    front: tuple[FrontNet, ...] = ()
    latency_source: LatencyOrigin = UNKNOWN


def search(space: Space, data_spec: str, table: LatencyTable, config: SearchConfig, out: Path) -> SearchResult:
    """Runs a search to its end, or continues the one that ``out`` holds.

    Args:
        space: what may be searched.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`; the same data set may have moved since.
        table: latency of every block of ``space``.
        config: the settings, with strategy and constraints.
        out: folder of the search's files.

    Raises:
        ConfigError: ``mode: target`` without a target, or a budget that is too small.
        MissingExtraError: the strategy needs an extra of the package.
        LatencyError: the table lacks blocks.
        ConstraintError: no arch meets the constraints, or all that do are equally fast where a front is asked for.
        DataError: the data set is missing, does not fit, or is not the one that ``out`` was begun with.
        StorageError: ``out`` is not writable or another process's, or holds a search with other settings.
        DivergedError: a loss became NaN or infinite.
        OutOfMemoryError: says which settings need less.
    """
    try:
        config.require_consistent_target()
    except ValueError as error:
        raise ConfigError("search settings", [str(error)]) from error
    strategy = strategy_named(config.strategy)
    require(*strategy.extras)
    latency = latency_costs(table, space)
    constraints = search_constraints(config, latency, CostSources(space, table))
    if config.front is not None:
        front_bounds(latency, constraints, config.front)
    check_data(data_spec, space.height, space.width, space.input_channels, space.classes)
    with memory_advice("the search", advice_for(config)), locked_folder(out):
        # Said before the data set is read:
        _require_own(out, data_spec, identity_of_search(config, space, latency, "", constraints))
        with step("reading the data set", patience=2.0):
            data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
            fingerprint = data.fingerprint
        if process.is_owned():
            keep_freed_memory()
        workers = Workers.join(config.device)
        workers.require_equal("data", int(fingerprint[:10], 16))
        problem = SearchProblem(space, latency, constraints, config, data, data_spec, workers, out)
        few = few_images(len(problem.indices[1]), config)
        if few is not None:
            say(f"warning: {few.text}")
        with spent_time(out, writes=workers.rank == 0) as spent:
            with seeded(config.seed, config.threads):
                outcome = strategy.search(problem)
            return _conclude(problem, outcome, table, spent.finish())


def _require_own(out: Path, data_spec: str, identity: dict[str, object]) -> None:
    """StorageError where the folder holds another search, of whichever strategy."""
    for name in STRATEGY_NAMES:
        strategy = strategy_named(name)
        path = out / strategy.state_file
        if path.exists():
            require_own(path, strategy.recorded_identity(path), identity, data_spec)


def _conclude(problem: SearchProblem, outcome: Outcome, table: LatencyTable, seconds: float) -> SearchResult:
    """Says what there is to know about the outcome, and writes the result files."""
    best, space, config = outcome.ranked[0], problem.space, problem.config
    measured = table.measured_share(parse_arch(best.arch, space), space)
    chance = task_named(problem.data.task).chance(problem.data.train.unchanged_targets(problem.indices[1]))
    notices = notices_of(outcome.health, space, best.accuracy, chance, config)
    if not outcome.learns_theta:
        notices = [notice for notice in notices if notice.kind != "uniform_theta"]
    for notice in notices:
        if notice.kind != "few_images":  # that was said before anything was spent
            say(f"warning: {notice.text}")
    others = {item.quantity.name: item.model.to_dict() for item in problem.others}
    record = SearchRecord(
        best=Best.model_validate({**best.to_dict(), "measured_share": measured}),
        expected_ms=outcome.expected_ms,
        latency_target_ms=config.latency_target_ms,
        theta=outcome.theta,
        health=outcome.health.to_dict(),
        space=space.to_dict(),
        costs=problem.latency.to_dict(),
        cost_models=others,
        data=problem.data_spec,
        fingerprint=problem.data.fingerprint,
        config=config.model_dump(),
        notices=[notice.to_dict() for notice in notices],
        strategy=config.strategy,
        spent_images=outcome.spent_images,
        spent_seconds=seconds,
        latency_source=LatencyOriginRecord(**table.origin.to_dict()),
        dtype=table.dtype_name,
        batch=table.batch,
        weight_bytes=weight_bytes(CostSources(space, table), choice_of(best.arch, space)),
    )
    out = problem.out
    if problem.workers.rank == 0:
        if outcome.front:
            write_front(out, config.strategy, len(outcome.ranked), outcome.spent_images, outcome.front)
        write_json(out / "archs.json", [candidate.to_dict() for candidate in outcome.ranked])
        write_json(out / "search.json", record.model_dump())
    problem.workers.wait()
    return SearchResult(
        best,
        outcome.ranked,
        tuple(tuple(row) for row in outcome.theta),
        outcome.expected_ms,
        measured,
        out,
        tuple(notices),
        config.strategy,
        outcome.spent_images,
        latency_source=table.origin,
        spent_seconds=seconds,
        front=outcome.front,
    )
