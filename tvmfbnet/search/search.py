"""A whole search in a folder: resumes where it stopped, then picks the net. What ``tvmfbnet search`` calls.

Files: ``search.ckpt`` (to continue from), ``history.json`` (one record per epoch), ``archs.json`` (the validated
candidates, best first) and ``search.json`` (the outcome: :mod:`tvmfbnet.search.result`). Started by torchrun, several
processes share every batch (:mod:`tvmfbnet.training.workers`), and the first of them writes the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet import process
from tvmfbnet.data.chance import Chance
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.places import check_data
from tvmfbnet.errors import CollapsedError, ConfigError
from tvmfbnet.files import write_json
from tvmfbnet.interrupts import saved_steps
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.progress import progress, resumed, say, step
from tvmfbnet.search.choice import (
    choose,
    choose_again,
    final_judge,
    identity_of_search,
    identity_of_searcher,
    locked_folder,
    sample_run,
)
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.costs import Costs
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.forecast import SearchPlan, forecast, is_little
from tvmfbnet.search.health import collapse_of
from tvmfbnet.search.loggers import make_loggers
from tvmfbnet.search.notices import Notice, few_images, notices_of
from tvmfbnet.search.result import Best, SearchRecord, advice_for, read_result, reopen
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import damage_named, load_checkpoint, save_checkpoint, seeded
from tvmfbnet.training.identity import require_identity, require_settings
from tvmfbnet.training.memory import keep_freed_memory, memory_advice
from tvmfbnet.training.workers import Workers

__all__ = ["SearchResult", "choose_again", "read_result", "reopen", "sample_run", "search"]


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Args:
        best: the most accurate candidate within the latency target.
        candidates: all validated candidates, most accurate first.
        theta: final theta, one row per layer.
        expected_ms: mean latency of archs sampled from theta.
        measured_share: share of the best arch's latency that was measured, not predicted.
        out: the folder.
        notices: what to know about it, such as that it learned nothing.
    """

    best: ScoredArch
    candidates: tuple[ScoredArch, ...]
    theta: tuple[tuple[float, ...], ...]
    expected_ms: float
    measured_share: float
    out: Path
    notices: tuple[Notice, ...] = ()


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
    check_data(data_spec, space.height, space.width, space.input_channels, space.classes)
    with memory_advice("the search", advice_for(config)), locked_folder(out):
        path = out / "search.ckpt"
        if path.exists():  # of another search: said before the data set is read
            recorded = load_checkpoint(path, "search").get("identity")
            require_settings(path, recorded, identity_of_search(config, space, costs, ""), data_spec)
        with step("reading the data set", patience=2.0):
            data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
            fingerprint = data.fingerprint
        if process.is_owned():
            keep_freed_memory()
        workers = Workers.join(config.device)
        workers.require_equal("data", int(fingerprint[:10], 16))
        with seeded(config.seed, config.threads):
            with step("building the supernet", patience=2.0):
                searcher = Searcher(space, data, costs, config, workers)
            few = few_images(len(final_judge(searcher).judged), config)
            if few is not None:
                say(f"warning: {few.text}")
            _train(searcher, data_spec, out)
            candidates = choose(searcher, costs, config.latency_target_ms, out)
        return _conclude(searcher, candidates, table, data_spec, out)


def _train(searcher: Searcher, data_spec: str, out: Path) -> None:
    """All remaining steps, with checkpoints and logs."""
    path, config, identity = out / "search.ckpt", searcher.config, identity_of_searcher(searcher)
    if path.exists():
        saved = load_checkpoint(path, "search")
        require_identity(path, saved.get("identity"), identity, data_spec)
        with damage_named(path):
            searcher.load_state_dict(saved["searcher"])
        say(resumed("search", out, searcher.done_steps, searcher.total_steps))
    searcher.workers.require_equal("checkpoint", searcher.done_steps)
    if not searcher.finished:
        _say_forecast(searcher)
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


def _say_forecast(searcher: Searcher) -> None:
    """Says how long the remaining search will take; skips the measurement for one that ends in moments."""
    space, data, config, workers = searcher.space, searcher.data, searcher.config, searcher.workers
    plan = SearchPlan.of(config, len(data.train), searcher.epoch, searcher.step)
    if is_little(space, config, plan):
        say("search: less than a minute's work")
        return
    expected = forecast(space, data, searcher.costs, config, workers, plan)
    say(f"search: {expected.describe()}")
    if expected.warning:
        say(expected.warning)


# Above this share of the time spent waiting for images, the loader holds the search up.
_LONG_WAIT = 0.2


def _look_after(searcher: Searcher, checkpoint: Path) -> None:
    """Says when images come too slowly, and stops a search that has collapsed."""
    config, last = searcher.config, searcher.history[-1]
    if last["data_wait"] > _LONG_WAIT:
        say(f"note: {last['data_wait']:.0%} of epoch {last['epoch']} was spent waiting for images; use a faster disk")
    if last["phase"] == "warm-up" or not config.stop_on_collapse:
        return
    health = searcher.health()
    collapse = collapse_of(
        health, last["expected_ms"], config.latency_target_ms, last["temperature"], config.collapse_skip
    )
    if collapse is not None:
        raise CollapsedError(
            f"the search collapsed in epoch {last['epoch']}: {collapse}; its checkpoint is {checkpoint} "
            "(stop_on_collapse: false resumes from it)"
        )


def _note(history: Sequence[dict[str, Any]]) -> str:
    """The figures of the last whole epoch. They do not count epochs: the steps beside them are the one counter."""
    if not history:
        return ""
    last = history[-1]
    figures = f"accuracy {last['weight_accuracy']:.1%}, expected {last['expected_ms']:.4g} ms"
    return f"{figures}, entropy {last['entropy']:.2f}" + (" (warm-up)" if last["phase"] == "warm-up" else "")


def _conclude(
    searcher: Searcher, candidates: tuple[ScoredArch, ...], table: LatencyTable, data_spec: str, out: Path
) -> SearchResult:
    last, best = searcher.history[-1], candidates[0]
    measured = table.measured_share(parse_arch(best.arch, searcher.space), searcher.space)
    chance = Chance.of(searcher.data.train.labels[final_judge(searcher).judged])
    notices = notices_of(searcher.health(), searcher.space, best.accuracy, chance, searcher.config)
    for notice in notices:
        if notice.kind != "few_images":  # that was said before anything was spent
            say(f"warning: {notice.text}")
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
        notices=[notice.to_dict() for notice in notices],
    )
    if searcher.workers.rank == 0:
        write_json(out / "archs.json", [candidate.to_dict() for candidate in candidates])
        write_json(out / "search.json", record.model_dump())
    searcher.workers.wait()
    theta = tuple(tuple(row) for row in last["theta"])
    return SearchResult(best, candidates, theta, last["expected_ms"], measured, out, tuple(notices))
