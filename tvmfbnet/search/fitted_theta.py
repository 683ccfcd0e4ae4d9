"""Theta fitted to validation losses: whole archs are drawn and judged, and each block's share of their loss is theta.

A gradient tells theta how the loss would change if a little more of a block were mixed in, which no arch that is built
in the end does. Here a step draws several archs near the constraints, and all are judged on one batch by single paths,
with the batch's own statistics, as in training. The losses of one batch differ by what the archs' blocks contribute:

    loss(a, batch) = base(batch) + sum_l effect[l, b_l(a)] + residual

The effects are fitted to all losses so far by ridge regression, older ones counting less, as w has moved on. Theta is
minus the effects in units of the residuals' deviation, so P(a) falls by a factor e where the fit expects a loss that is
one deviation larger. Where constraints bind, the blocks' costs are taken off with Lagrange multipliers that bring the
mean cost to the bound (:mod:`tvmfbnet.search.multipliers`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tvmfbnet.data.loader import Loader
from tvmfbnet.nets.joint_batchnorm import frozen_statistics
from tvmfbnet.nets.precision import computing_in
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.controller import Steering
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.draw import sample_choices
from tvmfbnet.search.losses import penalised_loss
from tvmfbnet.search.multipliers import bounded_theta
from tvmfbnet.search.paths import Path, window_paths
from tvmfbnet.search.plan import FITTED_ARCHS
from tvmfbnet.search.step import NotFiniteError, StepFigures
from tvmfbnet.tasks.task import Task
from tvmfbnet.training.device import place_batch
from tvmfbnet.training.workers import Workers

# What a loss still counts one epoch later.
_KEPT = 0.5
# Ridge regression: as if each block had been seen so often with no effect at all.
_RIDGE = 2.0
# Losses that the fit explains to the last bit would make theta infinite.
_LEAST_VARIANCE = 1e-8


class FittedTheta:
    """Ridge regression of validation losses on blocks.

    Args:
        supernet: its theta is set.
        batches: of the images that train theta.
        costs: latency of every candidate.
        config: the settings.
        constraints: what the drawn archs meet.
        steering: the constraints that theta's mean cost meets.
        workers: the processes that share every batch.
        generator: of the drawn archs.
        task: what archs are judged by.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: Loader,
        costs: AdditiveCosts,
        config: SearchConfig,
        constraints: Sequence[Constraint],
        steering: Steering,
        workers: Workers,
        generator: torch.Generator,
        task: Task,
    ) -> None:
        self._task = task
        self._supernet, self.batches, self._costs, self._config = supernet, batches, costs, config
        self._constraints, self._steering = constraints, steering
        self._workers, self._generator = workers, generator
        self._fit = EffectFit(supernet.mask.cpu())
        self._epoch = -1

    def step(self, epoch: int) -> StepFigures:
        """Judges some archs on one batch, fits again and sets theta."""
        if epoch != self._epoch:
            self._fit.forget(_KEPT)
            self._epoch = epoch
        pixels, targets = place_batch(*self.batches.next(), self._workers.device)
        self._supernet.train()
        paths = self._draw()
        losses, shares = [], []
        with torch.no_grad(), frozen_statistics(self._supernet):
            for path in paths:
                with computing_in(self._config.precision, self._workers.device):
                    outputs = self._supernet(pixels, path).float()
                losses.append(float(self._loss(self._task.loss(outputs, targets), path)))
                shares.append(self._task.batch_accuracy(outputs, targets))
        losses = list(self._workers.average({str(number): loss for number, loss in enumerate(losses)}).values())
        if not all(map(math.isfinite, losses)):
            raise NotFiniteError(f"the loss is {max(losses)}")
        self._fit.add(paths, losses)
        self._set_theta()
        return StepFigures(sum(losses) / len(losses), sum(shares) / len(shares))

    def _draw(self) -> list[Path]:
        uniform = torch.zeros_like(self._supernet.theta).masked_fill(~self._supernet.mask, -math.inf).log_softmax(dim=1)
        if self._constraints:
            return window_paths(uniform, self._constraints, self._config.window_share, FITTED_ARCHS, self._generator)
        return [list(choice) for choice in sample_choices(uniform.detach(), FITTED_ARCHS, self._generator)]

    def _loss(self, task_loss: torch.Tensor, path: Path) -> torch.Tensor:
        """What theta is fitted to: the task's loss, and without constraints the paper's loss on the arch's latency."""
        if self._steering.active:
            return task_loss
        config = self._config
        latency = torch.tensor(self._costs.value(path))
        return penalised_loss(task_loss, latency, config.loss, config.alpha, config.beta, config.latency_reference_ms)

    @torch.no_grad()
    def _set_theta(self) -> None:
        effects, deviation = self._fit.solve()
        theta = (-effects / deviation).to(self._supernet.theta)
        if self._steering.active:
            theta, multipliers = bounded_theta(theta, self._supernet.mask, self._steering.active)
            for multiplier, item in zip(multipliers, self._steering.active, strict=True):
                item.controller.multiplier = max(0.0, multiplier)
        self._supernet.theta.copy_(theta)

    def state_dict(self) -> dict[str, Any]:
        """The regression's sums and the loader's state."""
        fit = {**self._fit.state_dict(), "epoch": torch.tensor(self._epoch)}
        return {"theta_fit": fit, "theta_batches": self.batches.state_dict()}

    def load_state_dict(self, optimiser: Any, batches: Any, fit: Any) -> None:
        """Goes back to a saved state."""
        if optimiser is not None or fit is None:
            raise ValueError("theta was not fitted, against the settings")
        self._epoch = int(fit["epoch"])
        self._fit.load_state_dict({name: tensor for name, tensor in fit.items() if name != "epoch"})
        self.batches.load_state_dict(batches)


class EffectFit:
    """The effect of every block on an arch's loss, from losses of archs that were judged together.

    Args:
        mask: (layers, candidates), False where there is no candidate.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self._mask = mask
        blocks = mask.numel()
        self._sums = {
            "products": torch.zeros(blocks, blocks, dtype=torch.float64),
            "weighted": torch.zeros(blocks, dtype=torch.float64),
            "squares": torch.zeros((), dtype=torch.float64),
            "count": torch.zeros((), dtype=torch.float64),
        }

    def forget(self, kept: float) -> None:
        """Lets all losses so far count less, by the factor ``kept``."""
        for tensor in self._sums.values():
            tensor.mul_(kept)

    def add(self, paths: Sequence[Path], losses: Sequence[float]) -> None:
        """Takes in the losses of archs that were judged on one batch; what they have in common is left out."""
        rows = torch.zeros(len(paths), *self._mask.shape, dtype=torch.float64)
        for row, path in zip(rows, paths, strict=True):
            row[torch.arange(len(path)), torch.tensor(path)] = 1.0
        inputs, outputs = rows.flatten(1), torch.tensor(losses, dtype=torch.float64)
        inputs, outputs = inputs - inputs.mean(dim=0), outputs - outputs.mean()
        self._sums["products"] += inputs.t() @ inputs
        self._sums["weighted"] += inputs.t() @ outputs
        self._sums["squares"] += outputs.square().sum()
        self._sums["count"] += len(paths) - 1

    def solve(self) -> tuple[torch.Tensor, float]:
        """The effects, (layers, candidates), 0 where there is no candidate, and the residuals' deviation."""
        products, weighted = self._sums["products"], self._sums["weighted"]
        effects = torch.linalg.solve(products + _RIDGE * torch.eye(len(products), dtype=torch.float64), weighted)
        residual = self._sums["squares"] - 2 * effects @ weighted + effects @ products @ effects
        deviation = math.sqrt(max(float(residual / self._sums["count"].clamp_min(1.0)), _LEAST_VARIANCE))
        return effects.view(self._mask.shape).masked_fill(~self._mask, 0.0), deviation

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums of the regression."""
        return {name: tensor.clone() for name, tensor in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes back to a saved state; ValueError if it is not one of this space."""
        if {name: t.shape for name, t in state.items()} != {name: t.shape for name, t in self._sums.items()}:
            raise ValueError("not the sums of a fit of this space's blocks")
        for name, tensor in state.items():
            self._sums[name].copy_(tensor)
