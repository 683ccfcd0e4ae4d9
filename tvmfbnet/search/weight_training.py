"""How a supernet's weights w learn: the steps of SGD, the paths that each of them takes, and what they learn from.

A step runs a mixture of blocks, or one or several paths through single blocks (:mod:`tvmfbnet.search.paths`). Several
paths share a batch, and their gradients are averaged. By the sandwich rule the heaviest path learns from the labels,
and the lightest and the drawn ones from its output (Yu and Huang 2019, section 3; in-place distillation). With a
net to distil from, the mean of its output and the labels takes the labels' place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tvmfbnet.data.loader import Loader
from tvmfbnet.nets.precision import computing_in
from tvmfbnet.nets.supernet import Mix, Supernet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.paths import Path, fair_paths, window_paths
from tvmfbnet.search.step import StepFigures, require_finite, targets_of
from tvmfbnet.search.weight_average import WeightAverage
from tvmfbnet.tasks.task import Task
from tvmfbnet.training.checkpoint import restore_optimiser
from tvmfbnet.training.device import place_batch
from tvmfbnet.training.timm_parts import CosineLRScheduler
from tvmfbnet.training.workers import Workers

# Multiplied with the number of an epoch and added to the seed: seeds of the paths drawn for it.
_STRIDE = 1_000_003


class WeightTraining:
    """The steps of w.

    Args:
        supernet: what learns; its theta is a constant here.
        batches: of the images that train w.
        config: the settings.
        constraints: what the paths of ``weight_paths: window`` meet.
        workers: the processes that share every batch.
        generator: of mixtures and paths.
        task: what w learns.
        distilled: a trained net to learn from.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: Loader,
        config: SearchConfig,
        constraints: Sequence[Constraint],
        workers: Workers,
        generator: torch.Generator,
        task: Task,
        distilled: nn.Module | None = None,
    ) -> None:
        self.supernet, self.batches, self._config, self._constraints = supernet, batches, config, constraints
        self._workers, self._generator, self._task, self._distilled = workers, generator, task, distilled
        self._optimiser = torch.optim.SGD(
            supernet.weight_parameters(),
            lr=config.weight_lr,
            momentum=config.weight_momentum,
            weight_decay=config.weight_decay,
        )
        steps = config.epochs * len(batches)
        self._schedule = CosineLRScheduler(self._optimiser, t_initial=steps, t_in_epochs=False)
        self._window: tuple[int, list[Path]] = (-1, [])
        self._average = WeightAverage(supernet, config.weight_ema) if config.weight_ema else None

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimiser.param_groups[0]["lr"])

    @property
    def result(self) -> Supernet:
        """The supernet to judge archs with: with averaged weights where the settings ask for them."""
        return self.supernet if self._average is None else self._average.averaged()

    def step(self, epoch: int, step: int) -> StepFigures:
        """One step of SGD.

        Raises:
            NotFiniteError: a loss is not finite; the weights are as before then.
        """
        done = epoch * len(self.batches) + step
        self._schedule.step_update(done)
        pixels, targets = place_batch(*self.batches.next(), self._workers.device)
        self.supernet.train()
        with torch.no_grad():
            mixes = self._mixes(epoch, step)
        self._optimiser.zero_grad()
        figures = self._learn(mixes, pixels, targets)
        parameters = self.supernet.weight_parameters()
        self._workers.average_gradients(parameters)
        if self._config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self._config.gradient_clip)
        self._optimiser.step()
        if self._average is not None:
            self._average.update(done)
        return figures

    def _learn(self, mixes: Sequence[Mix], pixels: torch.Tensor, targets: torch.Tensor) -> StepFigures:
        """The gradients of a step's mixes on its batch; the figures are the drawn mixes' mean."""
        task, precision = self._task, self._config.precision
        target = targets_of(pixels, targets, self._distilled, precision, self._workers.device, task)
        if self._config.sandwich:
            outputs = self._outputs(pixels, self.supernet.heaviest_choice())
            self._backward(task.loss(outputs, target), 1)
            target = task.soft(outputs.detach())
            mixes = [self.supernet.lightest_choice(), *mixes]
        losses, shares = [], []
        for mix in mixes:
            outputs = self._outputs(pixels, mix)
            losses.append(self._backward(task.loss(outputs, target), len(mixes)))
            shares.append(task.batch_accuracy(outputs, targets))
        return StepFigures(sum(losses) / len(losses), sum(shares) / len(shares))

    def _backward(self, loss: torch.Tensor, parts: int) -> float:
        value = require_finite(loss)
        (loss / parts if parts > 1 else loss).backward()  # type: ignore[no-untyped-call]
        return value

    def _outputs(self, pixels: torch.Tensor, mix: Mix) -> torch.Tensor:
        """The supernet's output in float32, computed at the precision that the settings ask for."""
        with computing_in(self._config.precision, self._workers.device):
            return self.supernet(pixels, mix).float()  # type: ignore[no-any-return]

    def _mixes(self, epoch: int, step: int) -> list[Mix]:
        """What the supernet runs in a step: paths in the warm-up and where the settings say so, else one mixture."""
        config, supernet = self._config, self.supernet
        warmup = epoch < config.warmup_epochs
        if not warmup and config.weight_steps != "sampled":
            return [supernet.draw(config.weight_steps, config.temperature_at(epoch), self._generator)[0]]
        count = config.step_paths
        if config.weight_paths == "window" and self._constraints:  # a forecast knows not all of them
            return list(self._window_paths(epoch)[step * count : (step + 1) * count])
        if config.weight_paths == "fair":
            return list(fair_paths([len(layer.blocks) for layer in supernet.space.layers], self._generator)[:count])
        if warmup:
            return [supernet.uniform_choice(self._generator) for _ in range(count)]
        probabilities = supernet.probabilities().cpu()
        drawn = (torch.multinomial(probabilities, 1, generator=self._generator)[:, 0] for _ in range(count))
        return [path.tolist() for path in drawn]

    def _window_paths(self, epoch: int) -> list[Path]:
        """All paths of an epoch. Theta stays as it is while w learns, so they follow from seed and epoch alone."""
        if self._window[0] != epoch:
            generator = torch.Generator().manual_seed(self._config.seed + _STRIDE * (epoch + 1))
            count, share = len(self.batches) * self._config.step_paths, self._config.window_share
            logs = self.supernet.log_probabilities()
            self._window = (epoch, window_paths(logs, self._constraints, share, count, generator))
        return self._window[1]

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the supernet and the generator."""
        state = {"weight_optimiser": self._optimiser.state_dict(), "weight_batches": self.batches.state_dict()}
        return state if self._average is None else {**state, "weight_average": self._average.state_dict()}

    def load_state_dict(self, optimiser: Any, batches: Any, average: Any) -> None:
        """Goes back to a saved state, in its parts.

        Raises:
            ValueError: they are not of such a training.
        """
        restore_optimiser(self._optimiser, optimiser)
        self.batches.load_state_dict(batches)
        if (average is None) != (self._average is None):
            raise ValueError("weights were averaged, or not, against the settings")
        if self._average is not None:
            self._average.load_state_dict(average)
        self._window = (-1, [])
