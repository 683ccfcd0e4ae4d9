"""An evaluator: archs are trained by themselves for a few steps, with the settings of the supernet's weights.

A short training says far more about an arch than its accuracy with a supernet's weights, though each one is noisy.
It starts from random weights, or from a supernet's; it may learn from a trained net besides, and be judged with a
moving average of its weights. ``benchmarks/short_trainings.py`` measures what each does to noise and ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from timm.utils import ModelEmaV3

from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import Loader, in_order
from tvmfbnet.files import Stored, read_json, read_model, write_json
from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.progress import say
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.distillation import net_to_distil
from tvmfbnet.search.judge import VALIDATION_BATCH
from tvmfbnet.search.plan import BACKWARD
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.step import learn_batch
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import task_named
from tvmfbnet.training.checkpoint import differences
from tvmfbnet.training.device import place_net
from tvmfbnet.training.evaluation import accuracy
from tvmfbnet.training.workers import Workers

# Between the seeds of an arch's trainings: far from those of other searches.
_REPETITION = 1_000_003
# Share of the steps in which the learning rate rises.
_RISE = 0.1


class Trained(Stored):
    """The accuracy, between 0 and 1, that each arch reached, and what search that was for.

    Attributes:
        repeated: accuracies of further trainings of an arch, in their order.
    """

    identity: dict[str, Any]
    accuracies: dict[str, float]
    repeated: dict[str, list[float]] = Field(default_factory=dict)


class ShortTraining:
    """Trains archs, each process one of them, and keeps their accuracies in a file.

    Args:
        space: the archs' space.
        data: the images.
        indices: those that archs are trained on, and those that they are judged on.
        config: the settings of the trainings.
        workers: the processes; the first one writes.
        identity: of the search (:func:`tvmfbnet.training.identity.identity_of`).
        file: what it holds of this very search is not trained again.
        steps: of one training; the settings' ``finalist_steps`` if None.
        keep: write new accuracies to the file.
        start: gives an arch's net with the weights that its training starts from; random ones if None.

    Raises:
        StorageError: the file is damaged, or the net to distil from is.
    """

    def __init__(
        self,
        space: Space,
        data: ImageData,
        indices: tuple[torch.Tensor, torch.Tensor],
        config: SearchConfig,
        workers: Workers,
        identity: dict[str, Any],
        file: Path,
        steps: int | None = None,
        keep: bool = True,
        start: Callable[[Arch], ArchNet] | None = None,
    ) -> None:
        self._space, self._data, self._config, self._workers = space, data, config, workers
        self._training_indices, self._judged = indices
        self._identity, self._file, self._keep, self._start = identity, file, keep, start
        self._distilled = net_to_distil(config.distil_from, data, workers.device)
        self._steps = config.finalist_steps if steps is None else steps
        before = trained_before(file, identity)
        self.accuracies, self.repeated = before.accuracies, before.repeated

    @classmethod
    def of(cls, problem: SearchProblem, file: Path, steps: int | None = None, keep: bool = True) -> ShortTraining:
        """The trainings of a search.

        Args:
            problem: the search.
            file, steps, keep: as of the class.
        """
        given = (problem.space, problem.data, problem.indices, problem.config, problem.workers, problem.identity)
        return cls(*given, file, steps, keep)

    @property
    def images(self) -> float:
        """Cost of one training and its judgement, in training images."""
        batch = min(self._config.batch_size, len(self._training_indices))
        return self._steps * batch + len(self._judged) / BACKWARD

    @property
    def steps(self) -> int:
        """Steps of one training."""
        return self._steps

    @property
    def together(self) -> int:
        """One arch per process."""
        return self._workers.size

    def evaluate(self, archs: Sequence[str], stepped: Callable[[], None] = lambda: None) -> Mapping[str, float]:
        """Trains those archs that the file does not hold; ``stepped`` is called after every step but a last one."""
        for start in range(0, len(archs), self.together):
            self._train_missing(archs[start : start + self.together], stepped)
        return {arch: self.accuracies[arch] for arch in archs}

    def evaluate_again(
        self, archs: Sequence[str], repetition: int, stepped: Callable[[], None] = lambda: None
    ) -> Mapping[str, float]:
        """Trains archs once more, with other initial weights and other batches for each ``repetition``."""
        for arch in archs:
            trainings = self.repeated.setdefault(arch, [])
            if len(trainings) < repetition:
                own = self._train(arch, stepped, repetition) if self._workers.rank == 0 else 0.0
                trainings.append(self._workers.total({arch: own})[arch])
                self._write()
        return {arch: self.repeated[arch][repetition - 1] for arch in archs}

    def _train_missing(self, archs: Sequence[str], stepped: Callable[[], None]) -> None:
        new = {arch: 0.0 for arch in archs if arch not in self.accuracies}
        if not new:
            return
        rank = self._workers.rank
        if rank < len(archs) and archs[rank] in new:
            new[archs[rank]] = self._train(archs[rank], stepped)
        self.accuracies.update(self._workers.total(new))
        self._write()

    def _write(self) -> None:
        if self._workers.rank == 0 and self._keep:
            trained = Trained(identity=self._identity, accuracies=self.accuracies, repeated=self.repeated)
            write_json(self._file, trained.model_dump())

    def _train(self, text: str, stepped: Callable[[], None], repetition: int = 0) -> float:
        """The accuracy after one short training; tells of every step."""
        config, device, data = self._config, self._workers.device, self._data
        task = task_named(data.task)
        seed = config.seed + _REPETITION * repetition
        torch.manual_seed(seed)
        space = replace(self._space, classes=data.classes)
        arch = parse_arch(text, space)
        net = place_net(build_net(arch, space) if self._start is None else self._start(arch), device)
        batches = Loader(data, data.train, self._training_indices, config.batch_size, config.augment, 3 * seed + 1)
        optimiser = torch.optim.SGD(
            net.parameters(), config.weight_lr, config.weight_momentum, weight_decay=config.weight_decay, nesterov=True
        )
        average = ModelEmaV3(net, config.weight_ema, use_warmup=True) if config.weight_ema else None
        net.train()
        for step in range(self._steps):
            passed = (step + 1) / self._steps
            rate = min(passed / _RISE, 1.0) * (1 + math.cos(math.pi * passed)) / 2
            optimiser.param_groups[0]["lr"] = config.weight_lr * rate
            learn_batch(net, optimiser, batches.next(), config, device, task, self._distilled)
            if average is not None:
                average.update(net, step)
            if step + 1 < self._steps:  # the last one is reported with its accuracy
                stepped()
        judged = net if average is None else average.module
        return accuracy(judged, in_order(data, data.train, self._judged, VALIDATION_BATCH), device, task)


def trained_before(file: Path, identity: dict[str, Any]) -> Trained:
    """The accuracies that the file holds of this very search; says why there are none."""
    if not file.exists():
        return Trained(identity=identity, accuracies={})
    content = read_json(file)
    if isinstance(content, dict) and "identity" not in content:
        say(f"note: {file} does not say what its archs were trained on; they are trained again")
        return Trained(identity=identity, accuracies={})
    trained = read_model(file, Trained)
    changed = differences(trained.identity, identity)
    if changed:
        say(f"note: {file} is of another search ({changed}); its archs are trained again")
        return Trained(identity=identity, accuracies={})
    return trained
