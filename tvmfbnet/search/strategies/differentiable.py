"""FBNet's search: a supernet's weights and theta are trained in turn, and archs are drawn from theta.

Files: ``search.ckpt`` (to resume from), ``history.json`` (one record per epoch) and ``finalists.json`` (accuracies of
short trainings, where the settings ask for them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.errors import CollapsedError
from tvmfbnet.files import write_json
from tvmfbnet.progress import say, step
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import ScoredArch, propose
from tvmfbnet.search.finalists import Finalists
from tvmfbnet.search.front.shared_search import Front
from tvmfbnet.search.front.supernet import choose_front_nets, plan_with_front, steered
from tvmfbnet.search.health import collapse_of
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.loggers import make_loggers
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.problem import SearchProblem, reopened_problem
from tvmfbnet.search.resumable import restore, train_to_end
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.strategies.base import Outcome
from tvmfbnet.training.checkpoint import damage_named, load_checkpoint

# Above this share of the time spent waiting for images, the loader holds the search up.
_LONG_WAIT = 0.2


class DifferentiableSearch:
    """Trains a supernet and theta, then chooses among archs drawn from theta."""

    name = "differentiable"
    state_file = "search.ckpt"
    accuracy_label = "supernet accuracy"
    extras = ()

    def recorded_identity(self, path: Path) -> Mapping[str, Any] | None:
        """The identity in ``search.ckpt``."""
        identity: Mapping[str, Any] | None = load_checkpoint(path, "search").get("identity")
        return identity

    def plan(self, config: SearchConfig, images: int) -> SearchPlan:
        """All epochs, the judgement of the archs drawn in the end, and finalists."""
        return plan_with_front(config, images)

    def search(self, problem: SearchProblem) -> Outcome:
        """Trains for all remaining steps and chooses.

        Raises:
            DivergedError: a loss became NaN or infinite.
            CollapsedError: theta has collapsed.
        """
        with step("building the supernet", patience=2.0):
            searcher = _searcher(problem)
        _train(searcher, problem)
        if problem.config.front is None:
            chosen = Front((), tuple(_choose(searcher, problem, problem.latency, problem.constraints)))
        else:
            chosen = choose_front_nets(searcher, problem)
        last, plan = searcher.history[-1], self.plan(problem.config, len(problem.data.train))
        return Outcome(
            chosen.ranked,
            last["theta"],
            last["expected_ms"],
            searcher.health(),
            learns_theta=True,
            spent_images=plan.images,
            front=chosen.nets,
        )

    def choose_again(
        self, problem: SearchProblem, latency: AdditiveCosts, constraints: tuple[Constraint, ...]
    ) -> list[ScoredArch]:
        """Draws from the learned theta again; StorageError where the checkpoint is missing or damaged."""
        return _choose(_restored(problem), problem, latency, constraints)

    def judge(self, problem: SearchProblem, archs: Sequence[ScoredArch]) -> list[ScoredArch]:
        """Accuracy with the supernet's weights; StorageError where the checkpoint is missing or damaged."""
        return final_judge(_restored(problem)).rank(archs, "validating archs")


STRATEGY = DifferentiableSearch()


def _searcher(problem: SearchProblem) -> Searcher:
    return Searcher(
        problem.space, problem.data, problem.latency, steered(problem), problem.workers, constraints=problem.others
    )


def _restored(problem: SearchProblem) -> Searcher:
    """The searcher of a finished search as it was at its end."""
    path = problem.out / DifferentiableSearch.state_file
    saved = load_checkpoint(path, "search")
    searcher = _searcher(problem)
    with damage_named(path, "search again"):
        searcher.load_state_dict(saved["searcher"])
    return searcher


@contextmanager
def reopen(folder: Path, record: dict[str, Any], data_spec: str | None = None) -> Iterator[Searcher]:
    """A finished differentiable search as it was at its end.

    Args:
        folder, record, data_spec: as of :func:`tvmfbnet.search.problem.reopened_problem`.

    Raises:
        StorageError: the search's checkpoint is missing or damaged.
        DataError: the data set is missing, or another one was given.
        OutOfMemoryError: says which settings need less.
    """
    with reopened_problem(folder, record, data_spec) as problem:
        yield _restored(problem)


def final_judge(searcher: Searcher) -> Judge:
    """Judges the archs that are left at the end."""
    return Judge.of(searcher, searcher.config.bn_images, searcher.config.validation_images, tuned=True)


def _choose(
    searcher: Searcher, problem: SearchProblem, latency: AdditiveCosts, constraints: tuple[Constraint, ...]
) -> list[ScoredArch]:
    """Samples archs from the learned theta and validates them, first on few images; most accurate first.

    Where the settings ask for finalists, some archs are trained and compared in the end.
    """
    config = searcher.config
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        logs = searcher.supernet.log_probabilities()
    tolerance = config.target_tolerance
    proposed = propose(
        logs, searcher.space, latency, constraints, config.samples, generator, tolerance, config.candidates
    )
    proposed = proposed[: config.screened]
    if len(proposed) > config.candidates:
        judge = Judge.of(searcher, config.screen_images, config.screen_images)
        proposed = judge.rank(proposed, "screening archs")[: config.candidates]
    ranked = final_judge(searcher).rank(proposed, "validating archs")
    if config.finalists:
        finalists = Finalists(searcher, latency, constraints, problem.identity, problem.out)
        ranked = finalists.choose(ranked)
    return ranked


def _train(searcher: Searcher, problem: SearchProblem) -> None:
    """All remaining steps, with checkpoints and logs."""
    out, config, kind = problem.out, searcher.config, "search"
    path = out / DifferentiableSearch.state_file
    restore(searcher, problem, path, kind, "search")
    first = problem.workers.rank == 0
    loggers = make_loggers(config.loggers, out, len(searcher.history)) if first else []

    def after_epoch() -> None:
        if first:
            write_json(out / "history.json", searcher.history)
            for logger in loggers:
                logger.log(searcher.history)
        _look_after(searcher, path)

    plan = SearchPlan.of(config, len(problem.data.train), searcher.epoch, searcher.step)
    train_to_end(searcher, problem, path, kind, "search", plan, lambda: _note(searcher.history), after_epoch)


def _look_after(searcher: Searcher, checkpoint: Path) -> None:
    """Says when images come too slowly, and stops a search that has collapsed."""
    config, last = searcher.config, searcher.history[-1]
    if last["data_wait"] > _LONG_WAIT:
        say(f"note: {last['data_wait']:.0%} of epoch {last['epoch']} was spent waiting for images; use a faster disk")
    if last["phase"] == "warm-up" or not config.stop_on_collapse:
        return
    collapse = collapse_of(
        searcher.health(), last["expected_ms"], searcher.largest_use(), last["temperature"], config.collapse_skip
    )
    if collapse is not None:
        raise CollapsedError(
            f"the search collapsed in epoch {last['epoch']}: {collapse}; its checkpoint is {checkpoint} "
            "(stop_on_collapse: false resumes from it)"
        )


def _note(history: Sequence[Mapping[str, Any]]) -> str:
    """The figures of the last whole epoch. They do not count epochs: the steps beside them are the one counter."""
    if not history:
        return ""
    last = history[-1]
    figures = f"accuracy {last['weight_accuracy']:.1%}, expected {last['expected_ms']:.4g} ms"
    return f"{figures}, entropy {last['entropy']:.2f}" + (" (warm-up)" if last["phase"] == "warm-up" else "")
