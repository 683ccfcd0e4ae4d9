"""A whole search in a folder: resumes where it stopped, then picks the net. What ``tvmfbnet search`` calls.

Files: ``search.ckpt`` (to continue from), ``history.json`` (one record an epoch), ``archs.json`` (the validated
candidates, best first) and ``search.json`` (the outcome: :mod:`tvmfbnet.search.result`). Started by torchrun, several
processes share every batch (:mod:`tvmfbnet.nets.workers`), and the first of them writes the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import CollapsedError, ConfigError, StorageError
from tvmfbnet.files import clear_leftovers, folder_lock, make_folder, write_json
from tvmfbnet.interrupts import saved_steps
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.checkpoint import damage_named, load_checkpoint, save_checkpoint, seeded
from tvmfbnet.nets.identity import identity_of, require_identity, require_settings
from tvmfbnet.nets.memory import keep_freed_memory, memory_advice
from tvmfbnet.nets.workers import Workers, is_first
from tvmfbnet.progress import progress, say, step
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.costs import Costs
from tvmfbnet.search.derive import Candidate, propose, sample_distinct
from tvmfbnet.search.finalists import Finalists
from tvmfbnet.search.health import collapse_of
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.loggers import make_loggers
from tvmfbnet.search.result import Best, SearchRecord, advice_for, read_result, reopen
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch import parse_arch
from tvmfbnet.space.space import Space

__all__ = ["SearchResult", "choose_again", "read_result", "reopen", "sample_run", "search"]

_FILES = ("search.ckpt", "history.json", "metrics.csv", "archs.json", "search.json", "finalists.json")

# Settings that change how a search is run, but not what comes out of it.
_FREE_SETTINGS = frozenset(
    {"checkpoint_steps", "device", "threads", "save_memory", "loggers", "collapse_skip", "stop_on_collapse"}
)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        best: the most accurate candidate within the latency target.
        candidates: all validated candidates, most accurate first.
        theta: final theta, one row a layer.
        expected_ms: mean latency of archs sampled from theta.
        measured_share: share of the best arch's latency that was measured, not predicted.
        out: the folder.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    theta: tuple[tuple[float, ...], ...]
    expected_ms: float
    measured_share: float
    out: Path


def search(space: Space, data_spec: str, table: LatencyTable, config: SearchConfig, out: Path) -> SearchResult:
    """Runs a search to its end, or continues the one that ``out`` holds.

    Args:
        space: what may be searched.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`; the same data set may have moved since.
        table: latency of every block of ``space``.
        config: the settings.
        out: folder of the search's files.

    Raises:
        ConfigError: ``mode: target`` without a target.
        LatencyError: the table lacks blocks, or no arch meets the latency target.
        DataError: the data set is missing, does not fit, or is not the one that ``out`` was begun with.
        StorageError: ``out`` is not writable or another process's, or holds a search with other settings.
        DivergedError: a loss became NaN or infinite.
        OutOfMemoryError: says which settings need less.
    """
    try:
        config.require_consistent_target()
    except ValueError as error:
        raise ConfigError("search settings", [str(error)]) from error
    costs = Costs.of(table, space)
    if config.latency_target_ms is not None:
        costs.require_reachable(config.latency_target_ms)
        if config.latency_target_ms > costs.slowest_ms:
            say(f"note: every net of this space meets the target; the slowest takes {costs.slowest_ms:.4g} ms")
    with memory_advice("the search", advice_for(config)), _held(out):
        path = out / "search.ckpt"
        if path.exists():  # of another search: said before the data set is read
            recorded = load_checkpoint(path, "search").get("identity")
            require_settings(path, recorded, _identity_of(config, space, costs, ""), data_spec)
        with step("reading the data set", patience=2.0):
            data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
            fingerprint = data.fingerprint
        keep_freed_memory()
        workers = Workers.join(config.device)
        workers.require_alike("data", int(fingerprint[:10], 16))
        with seeded(config.seed, config.threads):
            with step("building the supernet", patience=2.0):
                searcher = Searcher(space, data, costs, config, workers)
            _train(searcher, data_spec, out)
            candidates = _choose(searcher, costs, config.latency_target_ms, out)
        return _conclude(searcher, candidates, table, data_spec, out)


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The folder for this search alone, without what a killed one left half-written."""
    make_folder(out)
    with folder_lock(out, "a search") if is_first() else nullcontext():
        if is_first():
            clear_leftovers(*(out / name for name in _FILES))
        yield


def _identity(searcher: Searcher) -> dict[str, Any]:
    """What must be the same for a search to be continued."""
    return _identity_of(searcher.config, searcher.space, searcher.costs, searcher.data.fingerprint)


def _identity_of(config: SearchConfig, space: Space, costs: Costs, fingerprint: str) -> dict[str, Any]:
    settings = {name: value for name, value in config.model_dump().items() if name not in _FREE_SETTINGS}
    return identity_of(settings, space, fingerprint, **{"latency table": costs.to_dict()})


def _train(searcher: Searcher, data_spec: str, out: Path) -> None:
    """All remaining steps, with checkpoints and logs."""
    path, config, identity = out / "search.ckpt", searcher.config, _identity(searcher)
    if path.exists():
        saved = load_checkpoint(path, "search")
        require_identity(path, saved.get("identity"), identity, data_spec)
        with damage_named(path):
            searcher.load_state_dict(saved["searcher"])
        say(f"search: continuing {out} at epoch {searcher.epoch + 1}, step {searcher.step + 1}")
    searcher.workers.require_alike("checkpoint", searcher.done_steps)
    first = searcher.workers.rank == 0
    loggers = make_loggers(config.loggers, out, len(searcher.history)) if first else []
    with (
        progress("search", searcher.total_steps, searcher.done_steps) as reporter,
        saved_steps("the checkpoint", saves=searcher.workers.size == 1) as steps,
    ):
        while not searcher.finished:
            with steps.timed("step"):
                epoch_ended = searcher.advance()
            if epoch_ended or steps.interrupted or searcher.step % config.checkpoint_steps == 0:
                with steps.timed("save"):
                    searcher.require_sound()
                    state = searcher.state_dict()
                    if first:
                        save_checkpoint(path, "search", {"identity": identity, "searcher": state})
            if first and epoch_ended:
                write_json(out / "history.json", searcher.history)
                for logger in loggers:
                    logger.log(searcher.history)
            if epoch_ended:
                _look_after(searcher, path)
            steps.end_if_interrupted()
            reporter.update(searcher.done_steps, _note(searcher.history))


# Above this share of the time spent waiting for pictures, the loader holds the search up.
_LONG_WAIT = 0.2


def _look_after(searcher: Searcher, checkpoint: Path) -> None:
    """Says when pictures come too slowly, and stops a search that has collapsed."""
    config, last = searcher.config, searcher.history[-1]
    if last["data_wait"] > _LONG_WAIT:
        say(f"note: {last['data_wait']:.0%} of epoch {last['epoch']} was spent waiting for pictures; use a faster disk")
    if last["phase"] == "warm-up" or not config.stop_on_collapse:
        return
    health = searcher.health()
    found = collapse_of(
        health, last["expected_ms"], config.latency_target_ms, last["temperature"], config.collapse_skip
    )
    if found is not None:
        raise CollapsedError(
            f"the search collapsed in epoch {last['epoch']}: {found}; its checkpoint is {checkpoint} "
            "(stop_on_collapse: false goes on from it)"
        )


def _note(history: Sequence[dict[str, Any]]) -> str:
    if not history:
        return ""
    last = history[-1]
    return (
        f"epoch {last['epoch']} {last['phase']}: accuracy {last['weight_accuracy']:.1%}, "
        f"expected {last['expected_ms']:.4g} ms, entropy {last['entropy']:.2f}"
    )


def _choose(searcher: Searcher, costs: Costs, target_ms: float | None, out: Path) -> tuple[Candidate, ...]:
    """Samples archs from the learned theta and validates them, first on few pictures; most accurate first.

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
    ranked = Judge.of(searcher, config.bn_images, config.validation_images).rank(proposed, "validating archs")
    if config.finalists:
        ranked = Finalists(searcher, costs, target_ms, _identity(searcher), out / "finalists.json").choose(ranked)
    return tuple(ranked)


def _conclude(
    searcher: Searcher, candidates: tuple[Candidate, ...], table: LatencyTable, data_spec: str, out: Path
) -> SearchResult:
    last, best = searcher.history[-1], candidates[0]
    measured = table.measured_share(parse_arch(best.arch, searcher.space), searcher.space)
    record = SearchRecord(
        best=Best(**best.to_dict(), measured_share=measured),
        expected_ms=last["expected_ms"],
        latency_target_ms=searcher.config.latency_target_ms,
        theta=last["theta"],
        health=searcher.health().to_dict(),
        space=searcher.space.to_dict(),
        costs=searcher.costs.to_dict(),
        data=data_spec,
        fingerprint=searcher.data.fingerprint,
        config=searcher.config.model_dump(),
    )
    if searcher.workers.rank == 0:
        write_json(out / "archs.json", [candidate.to_dict() for candidate in candidates])
        write_json(out / "search.json", record.model_dump())
    searcher.workers.wait()
    theta = tuple(tuple(row) for row in last["theta"])
    return SearchResult(best, candidates, theta, last["expected_ms"], measured, out)


def sample_run(
    run: Path,
    count: int,
    seed: int,
    target_ms: float | None = None,
    validate: bool = False,
    data_spec: str | None = None,
) -> list[Candidate]:
    """Distinct archs from the distribution that a finished search learned, most probable first.

    Args:
        run: the search's folder, or a run folder that holds it as ``search/``.
        count: how many; fewer come back where the distribution hardly gives more.
        seed: of the sampling.
        target_ms: leave out slower archs.
        validate: also give each one's accuracy, with the supernet's weights and renewed batch-norm statistics.
        data_spec: where the search's data set lies now, if it has moved.

    Raises:
        StorageError: no finished search there, or its checkpoint is gone.
        DataError: validation was asked for and the search's data set is missing, or another one was given.
        LatencyError: the target cannot be reached.
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
        judge = Judge.of(searcher, searcher.config.bn_images, searcher.config.validation_images)
        return sorted(judge.rank(drawn, "validating archs"), key=lambda c: (-c.probability, c.arch))


def choose_again(
    run: Path, factor: float = 1.0, target_ms: float | None = None, data_spec: str | None = None
) -> list[Candidate]:
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
    with _held(folder), reopen(folder, record, data_spec) as searcher:
        return list(_choose(searcher, costs, target, folder))
