"""The training of a supernet from its checkpoint to its end, with a new checkpoint every few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tvmfbnet.interrupts import saved_steps
from tvmfbnet.progress import progress, resumed, say
from tvmfbnet.search.forecast import say_forecast
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.training.checkpoint import damage_named, load_checkpoint, save_checkpoint
from tvmfbnet.training.identity import require_identity


def restore(searcher: Searcher, problem: SearchProblem, path: Path, kind: str, what: str) -> None:
    """Goes back to the checkpoint, if there is one, and says so.

    Args:
        searcher: as it was built.
        problem: the search.
        path: the checkpoint's.
        kind: the checkpoint's.
        what: is resumed, in words.

    Raises:
        StorageError: the checkpoint is damaged, or of another search.
    """
    if path.exists():
        saved = load_checkpoint(path, kind)
        require_identity(path, saved.get("identity"), problem.identity, problem.data_spec)
        with damage_named(path):
            searcher.load_state_dict(saved["searcher"])
        say(resumed(what, problem.out, searcher.done_steps, searcher.total_steps))
    problem.workers.require_equal("checkpoint", searcher.done_steps)


def train_to_end(
    searcher: Searcher,
    problem: SearchProblem,
    path: Path,
    kind: str,
    label: str,
    plan: SearchPlan,
    note: Callable[[], str],
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """All remaining steps; nothing where none is left.

    Args:
        searcher: what is trained; restored.
        problem: the search.
        path, kind: of the checkpoint.
        label: of the progress.
        plan: the remaining work, for the forecast.
        note: what stands beside the progress.
        after_epoch: called after the checkpoint of each epoch's end.
    """
    if searcher.finished:
        return
    say_forecast(problem.space, problem.data, problem.latency, searcher.config, problem.workers, plan)
    with (
        progress(label, searcher.total_steps, searcher.done_steps) as reporter,
        saved_steps("the checkpoint", saves=problem.workers.size == 1) as steps,
    ):
        while not searcher.finished:
            with steps.timed("step"):
                epoch_ended = searcher.advance()
            if epoch_ended or steps.interrupted or searcher.step % searcher.config.checkpoint_steps == 0:
                with steps.timed("save"):
                    searcher.require_sound()
                    state = searcher.state_dict()
                    if problem.workers.rank == 0:
                        save_checkpoint(path, kind, {"identity": problem.identity, "searcher": state})
            if epoch_ended:
                after_epoch()
            steps.end_if_interrupted()
            reporter.update(searcher.done_steps, note())
