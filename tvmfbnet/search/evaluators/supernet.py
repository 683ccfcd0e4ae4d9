"""Archs judged with the weights of one supernet, which is trained first (Guo et al. 2020, "Single Path One-Shot").

Every step of that training runs one block per layer, each equally likely, so no theta prefers some archs. Then an arch
costs only its batch-norm recalibration and its validation, and a budget pays for many more archs than by trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tvmfbnet.errors import ConfigError
from tvmfbnet.files import write_json
from tvmfbnet.progress import step
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.evaluator import whole_evaluations
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.plan import BACKWARD, SearchPlan
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.resumable import restore, train_to_end
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.short_training import Trained, trained_before
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.training.checkpoint import damage_named, load_checkpoint

CHECKPOINT = "supernet.ckpt"
# Share of the budget that trains the supernet.
_SHARE = 0.8


class SupernetAccuracies:
    """Trains a supernet for four fifths of the budget, in whole epochs."""

    name = "supernet"
    does = "judging archs"

    def prepared_images(self, config: SearchConfig, images: int, budget_images: float) -> float:
        """The training's."""
        return _training(config, images, budget_images)[1].images

    def plan(self, config: SearchConfig, images: int, budget_images: float, done: int = 0) -> SearchPlan:
        """The training, and as many judgements as what is left of the budget pays for."""
        training, judged = _training(config, images, budget_images)[1], _judged(config, images)
        count = whole_evaluations(budget_images - training.images, _judgement(config, images)) - done
        steps = 0 if done else training.warmup_steps
        return replace(
            training, warmup_steps=steps, finalist_steps=count * config.tune_steps, judged_images=count * judged
        )

    def prepare(self, problem: SearchProblem, budget_images: float) -> None:
        """Trains the supernet, or continues its training."""
        config, plan = _training(problem.config, len(problem.data.train), budget_images)
        path, kind = problem.out / CHECKPOINT, "supernet"
        with step("building the supernet", patience=2.0):
            searcher = _searcher(problem, config)
        restore(searcher, problem, path, kind, "training of the supernet")

        def note() -> str:
            return f"accuracy {searcher.history[-1]['weight_accuracy']:.1%}" if searcher.history else ""

        train_to_end(searcher, problem, path, kind, "training the supernet", plan, note)
        problem.workers.wait()

    def open(self, problem: SearchProblem, budget_images: float, file: Path, keep: bool = True) -> SupernetEvaluator:
        """Judges with the weights that the checkpoint holds."""
        path = problem.out / CHECKPOINT
        saved = load_checkpoint(path, "supernet")
        config, _ = _training(problem.config, len(problem.data.train), budget_images)
        searcher = _searcher(problem, config)
        with damage_named(path, "search again"):
            searcher.load_state_dict(saved["searcher"])
        return SupernetEvaluator(searcher, problem, file, keep)


EVALUATOR = SupernetAccuracies()


class SupernetEvaluator:
    """Accuracy with a trained supernet's weights, after batch-norm recalibration; answers are kept in a file.

    Args:
        searcher: holds the trained supernet.
        problem: what the archs are judged for.
        file: where answers are kept.
        keep: whether new ones are written.
    """

    steps, together = 1, 1

    def __init__(self, searcher: Searcher, problem: SearchProblem, file: Path, keep: bool) -> None:
        config = problem.config
        self._judge = Judge.of(searcher, config.bn_images, config.validation_images, tuned=True)
        self._problem, self._file, self._keep = problem, file, keep
        self.images = _judgement(config, len(problem.data.train))
        self.accuracies = trained_before(file, problem.identity).accuracies

    def evaluate(self, archs: Sequence[str], stepped: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Judges those archs that the file does not hold; every process judges all of them."""
        for arch in archs:
            if arch not in self.accuracies:
                self.accuracies[arch] = self._judge.accuracy(parse_arch(arch, self._problem.space))
                if self._keep and self._problem.workers.rank == 0:
                    record = Trained(identity=self._problem.identity, accuracies=self.accuracies)
                    write_json(self._file, record.model_dump())
        return {arch: self.accuracies[arch] for arch in archs}


def _searcher(problem: SearchProblem, config: SearchConfig) -> Searcher:
    return Searcher(problem.space, problem.data, problem.latency, config, problem.workers, constraints=problem.others)


def _training(config: SearchConfig, images: int, budget_images: float) -> tuple[SearchConfig, SearchPlan]:
    """The settings and the work of the supernet's training: an endless warm-up, so to speak.

    Raises:
        ConfigError: the budget does not allow one epoch.
    """
    one = SearchPlan.of(config.model_copy(update={"epochs": 1, "warmup_epochs": 1}), images)
    epochs = int(_SHARE * budget_images / (one.warmup_steps * one.warmup_paths * one.batch))
    if epochs < 1:
        problem = (
            f"a budget of {budget_images:,.0f} images is too small to train a supernet for one epoch; "
            "raise budget_images or epochs, or take evaluator: short_training"
        )
        raise ConfigError("search settings", [problem])
    plan = replace(one, warmup_steps=epochs * one.warmup_steps, finalist_steps=0, judged_images=0)
    return config.model_copy(update={"epochs": epochs, "warmup_epochs": epochs}), plan


def _judgement(config: SearchConfig, images: int) -> float:
    """Cost of one judgement, in training images: what the arch learns before, and its images."""
    batch = SearchPlan.of(config, images).batch
    return config.tune_steps * batch + _judged(config, images) / BACKWARD


def _judged(config: SearchConfig, images: int) -> int:
    """Images that go through one arch when it is judged."""
    used = min(images, config.train_images or images)
    for_weights = round(used * config.weight_share)
    return min(config.bn_images, for_weights) + min(used - for_weights, config.validation_images or used)
