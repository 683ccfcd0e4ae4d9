"""A whole search in a folder: resumes where it stopped, then picks the net. What ``tvmfbnet search`` calls.

Files: ``search.ckpt`` (to continue from), ``history.json`` (one record an epoch), ``archs.json`` (the validated
candidates, best first) and ``search.json`` (the outcome, with all that is needed to sample more archs from it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import in_order
from tvmfbnet.errors import StorageError
from tvmfbnet.files import make_folder, read_json, write_json
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.checkpoint import load_checkpoint, require_same, save_checkpoint, seeded
from tvmfbnet.progress import progress, say
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.costs import Costs
from tvmfbnet.search.derive import Candidate, propose, sample_distinct, validate_arch
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch import parse_arch
from tvmfbnet.space.space import Space

# Settings that change how a search is run, but not what comes out of it.
_FREE_SETTINGS = frozenset({"checkpoint_steps", "device", "threads"})

VALIDATION_BATCH = 256


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
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`.
        table: latency of every block of ``space``.
        config: the settings.
        out: folder of the search's files.

    Raises:
        LatencyError: the table lacks blocks, or no arch meets the latency target.
        DataError: the data set is missing or does not fit.
        StorageError: ``out`` is not writable or holds a search with other settings.
        DivergedError: a loss became NaN or infinite.
    """
    costs = Costs.of(table, space)
    if config.latency_target_ms is not None:
        costs.require_reachable(config.latency_target_ms)
    data = load_data(data_spec, space.height, space.width, space.input_channels, space.classes)
    make_folder(out)
    with seeded(config.seed, config.threads):
        searcher = Searcher(space, data, costs, config)
        _train(searcher, _identity(space, data_spec, costs, config), out)
        candidates = _judge(searcher, out)
    return _conclude(searcher, candidates, table, data_spec, out)


def _identity(space: Space, data_spec: str, costs: Costs, config: SearchConfig) -> dict[str, Any]:
    """What must be the same for a search to be continued."""
    settings = {name: value for name, value in config.model_dump().items() if name not in _FREE_SETTINGS}
    return {**settings, "space": space.to_dict(), "data": data_spec, "latency table": costs.to_dict()}


def _train(searcher: Searcher, identity: dict[str, Any], out: Path) -> None:
    """All remaining steps, with checkpoints."""
    path = out / "search.ckpt"
    if path.exists():
        saved = load_checkpoint(path, "search")
        require_same(path, saved["identity"], identity)
        try:
            searcher.load_state_dict(saved["searcher"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise StorageError(f"{path} is damaged; remove it to start anew") from error
        say(f"search: continuing {out} at epoch {searcher.epoch + 1}, step {searcher.step + 1}")
    with progress("search", searcher.total_steps, searcher.done_steps) as reporter:
        while not searcher.finished:
            epoch_ended = searcher.advance()
            if epoch_ended or searcher.step % searcher.config.checkpoint_steps == 0:
                save_checkpoint(path, "search", {"identity": identity, "searcher": searcher.state_dict()})
            if epoch_ended:
                write_json(out / "history.json", searcher.history)
            reporter.update(searcher.done_steps, _note(searcher.history))


def _note(history: Sequence[dict[str, Any]]) -> str:
    if not history:
        return ""
    last = history[-1]
    return (
        f"epoch {last['epoch']} {last['phase']}: accuracy {last['weight_accuracy']:.1%}, "
        f"expected {last['expected_ms']:.4g} ms, entropy {last['entropy']:.2f}"
    )


def _judge(searcher: Searcher, out: Path) -> tuple[Candidate, ...]:
    """Samples archs from the learned theta and validates the most probable ones; most accurate first."""
    config, data, supernet = searcher.config, searcher.data, searcher.supernet
    generator = torch.Generator().manual_seed(config.seed)
    target = config.latency_target_ms
    with torch.no_grad():
        logs = supernet.log_probabilities()
    proposed = propose(logs, searcher.space, searcher.costs, target, config.samples, generator)[: config.candidates]
    calibration = searcher.weight_indices[: config.bn_images]
    judged = searcher.theta_indices[: config.validation_images]
    pixels = [batch for batch, _ in in_order(data, data.train, calibration, VALIDATION_BATCH)]
    ranked = []
    with progress("validating archs", len(proposed)) as reporter:
        for candidate in proposed:
            arch = parse_arch(candidate.arch, searcher.space)
            share = validate_arch(supernet, arch, pixels, lambda: in_order(data, data.train, judged, VALIDATION_BATCH))
            ranked.append(replace(candidate, accuracy=share))
            reporter.advance(note=f"best {max(c.accuracy or 0.0 for c in ranked):.1%}")
    ranked.sort(key=lambda c: (-(c.accuracy or 0.0), c.predicted_ms))
    write_json(out / "archs.json", [candidate.to_dict() for candidate in ranked])
    return tuple(ranked)


def _conclude(
    searcher: Searcher, candidates: tuple[Candidate, ...], table: LatencyTable, data_spec: str, out: Path
) -> SearchResult:
    last = searcher.history[-1]
    best = candidates[0]
    measured = table.measured_share(parse_arch(best.arch, searcher.space), searcher.space)
    record = {
        "best": {**best.to_dict(), "measured_share": measured},
        "expected_ms": last["expected_ms"],
        "latency_target_ms": searcher.config.latency_target_ms,
        "theta": last["theta"],
        "space": searcher.space.to_dict(),
        "costs": searcher.costs.to_dict(),
        "data": data_spec,
        "config": searcher.config.model_dump(),
    }
    write_json(out / "search.json", record)
    theta = tuple(tuple(row) for row in last["theta"])
    return SearchResult(best, candidates, theta, last["expected_ms"], measured, out)


def sample_run(run: Path, count: int, seed: int, target_ms: float | None = None) -> list[Candidate]:
    """Distinct archs from the distribution that a finished search learned, most probable first.

    Args:
        run: the search's folder, or a run folder that holds it as ``search/``.
        count: how many; fewer come back where the distribution hardly gives more.
        seed: of the sampling.
        target_ms: leave out slower archs.

    Raises:
        StorageError: no finished search there.
        LatencyError: the target cannot be reached.
    """
    record = read_result(run)
    space, costs = Space.from_dict(record["space"]), Costs.from_dict(record["costs"])
    if target_ms is not None:
        costs.require_reachable(target_ms)
    widest = max(len(row) for row in record["theta"])
    padded = [row + [float("-inf")] * (widest - len(row)) for row in record["theta"]]
    logs = torch.tensor(padded, dtype=torch.float64).log_softmax(dim=1)
    generator = torch.Generator().manual_seed(seed)
    return sample_distinct(logs, space, costs, target_ms, count, generator)


def read_result(run: Path) -> dict[str, Any]:
    """The record ``search.json`` of a finished search; StorageError when there is none."""
    places = (run / "search.json", run / "search" / "search.json")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise StorageError(f"{run} holds no finished search (no search.json): give the folder that search wrote to")
    record = read_json(path)
    if not isinstance(record, dict) or not {"space", "costs", "theta", "best"} <= set(record):
        raise StorageError(f"{path} is not the outcome of a search; run the search again")
    return record
