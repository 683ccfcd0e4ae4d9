"""The search itself: FBNet's alternating training of weights and theta, which can be stopped and continued anywhere.

A :class:`Searcher` is a small state machine: :meth:`Searcher.advance` does one optimiser step, and
:meth:`Searcher.state_dict` between any two steps is enough to resume exactly there, bit for bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import Loader, split_indices
from tvmfbnet.errors import DataError, DivergedError
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint, latency_constraint, merged
from tvmfbnet.search.controller import Steering
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.distillation import net_to_distil
from tvmfbnet.search.fitted_theta import FittedTheta
from tvmfbnet.search.health import Health, health_of
from tvmfbnet.search.losses import expected_cost
from tvmfbnet.search.plan import StepKind
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.state import SearcherState
from tvmfbnet.search.step import NotFiniteError, StepFigures
from tvmfbnet.search.theta_training import GradientTheta, ThetaTraining
from tvmfbnet.search.weight_training import WeightTraining
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import task_named
from tvmfbnet.training.checkpoint import restore_rng, rng_state
from tvmfbnet.training.device import pick_device, place_net
from tvmfbnet.training.workers import Workers

_NO_SUMS = {"weight_loss": 0.0, "weight_right": 0.0, "theta_loss": 0.0, "theta_right": 0.0, "seconds": 0.0}


class Searcher:
    """Trains a supernet and its theta.

    Args:
        space: what may be searched.
        data: images of the space's size.
        costs: latency of every candidate.
        config: the scheme's settings, with the latency target.
        workers: the processes that share every batch; this one alone if None.
        constraints: those on other quantities.
    """

    def __init__(
        self,
        space: Space,
        data: ImageData,
        costs: AdditiveCosts,
        config: SearchConfig,
        workers: Workers | None = None,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self.space, self.data, self.costs, self.config = space, data, costs, config
        self.task = task_named(data.task)
        self.constraints = merged(latency_constraint(costs, config.latency_target_ms), constraints)
        self.workers = workers or Workers.alone(pick_device(config.device))
        self.device = self.workers.device
        # A subset of the classes may stand in for them all (FBNet, section 4.1); it has a classifier of its own.
        supernet = Supernet(
            replace(space, classes=data.classes), save_memory=config.save_memory, share_weights=config.share_weights
        )
        self.supernet = self.workers.share(place_net(supernet, self.device))
        self._cells_ms = torch.tensor(costs.padded()).to(self.device)
        self.weight_indices, self.theta_indices = split_indices(
            len(data.train), config.weight_share, config.seed, config.train_images
        )
        if min(len(self.weight_indices), len(self.theta_indices)) < 2:
            raise DataError(f"{data.name} gives too few training images to divide: {len(data.train)}")
        self._generator = torch.Generator().manual_seed(3 * config.seed + 3)
        self._weights = self._weight_training()
        self.epoch, self.step = 0, 0
        self.history: list[dict[str, Any]] = []
        self._sums = dict(_NO_SUMS)
        self._waited = 0.0
        theta_batches = self._loader(self.theta_indices, config.theta_batch_size or config.batch_size, 2)
        self._steering = Steering.of(self.constraints, config, len(theta_batches), self.device)
        self._theta = self._theta_training(theta_batches)

    def _weight_training(self) -> WeightTraining:
        config = self.config
        batches = self._loader(self.weight_indices, config.batch_size, 1)
        distilled = net_to_distil(config.distil_from, self.data, self.device)
        return WeightTraining(
            self.supernet, batches, config, self.constraints, self.workers, self._generator, self.task, distilled
        )

    def _theta_training(self, batches: Loader) -> ThetaTraining:
        config, supernet, steering = self.config, self.supernet, self._steering
        given = (self.workers, self._generator, self.task)
        if config.theta_steps == "fitted":
            return FittedTheta(supernet, batches, self.costs, config, self.constraints, steering, *given)
        return GradientTheta(supernet, batches, self.costs, config, config.theta_steps, steering, *given)

    def _loader(self, indices: torch.Tensor, batch_size: int, stream: int) -> Loader:
        seed = 3 * self.config.seed + stream
        part = (self.workers.rank, self.workers.size)
        return Loader(self.data, self.data.train, indices, batch_size, self.config.augment, seed, part)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.config.epochs

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole search."""
        return sum(self._steps_of(epoch) for epoch in range(self.config.epochs))

    @property
    def done_steps(self) -> int:
        """Optimiser steps done so far."""
        return sum(self._steps_of(epoch) for epoch in range(self.epoch)) + self.step

    @property
    def _weight_steps(self) -> int:
        """Steps of w in an epoch."""
        return len(self._weights.batches)

    def _is_warmup(self, epoch: int) -> bool:
        return epoch < self.config.warmup_epochs

    def _steps_of(self, epoch: int) -> int:
        return self._weight_steps + (0 if self._is_warmup(epoch) else len(self._theta.batches))

    def advance(self) -> bool:
        """Does one optimiser step, of w or of theta; True when it was the last one of an epoch.

        Raises:
            DivergedError: a loss or theta is not finite; the state is then of no use any more.
        """
        started = time.monotonic()
        if self.step < self._weight_steps:
            self._count("weight", self._take("weight"))
        else:
            self._count("theta", self._take("theta"))
        self.step += 1
        self._sums["seconds"] += time.monotonic() - started
        if self.step < self._steps_of(self.epoch):
            return False
        self.history.append(self._summary())
        self.epoch, self.step, self._sums = self.epoch + 1, 0, dict(_NO_SUMS)
        return True

    def try_step(self, kind: StepKind) -> float:
        """Times one step of a kind, in seconds. For forecasts only: the search cannot continue from here."""
        self.epoch = 0 if kind == "single" else self.config.warmup_epochs
        started = time.monotonic()
        self._take("theta" if kind == "theta" else "weight")
        return time.monotonic() - started

    def _take(self, part: Literal["weight", "theta"]) -> StepFigures:
        try:
            return self._theta.step(self.epoch) if part == "theta" else self._weights.step(self.epoch, self.step)
        except NotFiniteError as error:
            raise self._diverged(str(error)) from error

    def _diverged(self, what: str) -> DivergedError:
        sick = self._first_not_finite()
        temperature = self.config.temperature_at(self.epoch)
        return DivergedError(
            f"the search diverged in step {self.done_steps + 1} of {self.total_steps}: {what}"
            + (f", first seen in {sick}" if sick else "")
            + f" (learning rate {self._weights.rate:.3g}, temperature {temperature:.3g}); restart with a lower "
            "weight_lr or theta_lr, or set gradient_clip (the last good checkpoint is kept)"
        )

    def _first_not_finite(self) -> str | None:
        state = self.supernet.state_dict().items()
        return next((name for name, tensor in state if not bool(torch.isfinite(tensor).all())), None)

    def require_sound(self) -> None:
        """DivergedError when a weight or statistic is not finite: such a state must not become a checkpoint."""
        if self._first_not_finite() is not None:
            raise self._diverged("the weights are not finite")

    def _count(self, part: str, figures: StepFigures) -> None:
        self._sums[f"{part}_loss"] += figures.loss
        self._sums[f"{part}_right"] += figures.right

    @torch.no_grad()
    def health(self) -> Health:
        """The figures of theta as it is now."""
        return health_of(self.supernet.log_probabilities(), self.space, self.costs)

    @property
    def waited_seconds(self) -> float:
        """Time spent waiting for images so far."""
        return self._weights.batches.waited_seconds + self._theta.batches.waited_seconds

    @torch.no_grad()
    def _summary(self) -> dict[str, Any]:
        """An epoch's history record; theta's figures are null in the warm-up, which does not train it."""
        warmup = self._is_warmup(self.epoch)
        logs = self.supernet.log_probabilities()
        health = self.health()
        self._sums = self.workers.average(self._sums)
        waited, self._waited = self.waited_seconds - self._waited, self.waited_seconds
        steps, theta_steps = self._weight_steps, len(self._theta.batches)
        return {
            "epoch": self.epoch + 1,
            "phase": "warm-up" if warmup else "search",
            "temperature": self.config.temperature_at(self.epoch),
            "weight_loss": self._sums["weight_loss"] / steps,
            "weight_accuracy": self._sums["weight_right"] / steps,
            "theta_loss": None if warmup else self._sums["theta_loss"] / theta_steps,
            "theta_accuracy": None if warmup else self._sums["theta_right"] / theta_steps,
            "expected_ms": float(expected_cost(logs.exp(), self._cells_ms, self.costs.fixed)),
            "entropy": sum(health.layer_entropy) / len(health.layer_entropy),
            **health.to_dict(),
            "latency_price": self._steering.multipliers.get(LATENCY.name),
            **self._steering.figures(logs.exp(), but=LATENCY.name),
            "data_wait": waited / self._sums["seconds"] if self._sums["seconds"] > 0 else 0.0,
            "theta": [
                row[: len(layer.blocks)]
                for row, layer in zip(self.supernet.theta.tolist(), self.space.layers, strict=True)
            ],
            "seconds": self._sums["seconds"],
        }

    @property
    def judged_supernet(self) -> Supernet:
        """The supernet whose weights archs are judged with: averaged over the steps where the settings ask for it."""
        return self._weights.result

    @torch.no_grad()
    def largest_use(self) -> float | None:
        """Theta's mean cost as a share of the bound, of the constraint that is used most; None without constraints."""
        return self._steering.largest_use(self.supernet.probabilities())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain data and tensors; called by all processes together."""
        self._sums = self.workers.average(self._sums)
        return {
            "supernet": self.supernet.state_dict(),
            **self._weights.state_dict(),
            **self._theta.state_dict(),
            "generator": self._generator.get_state(),
            "price": self._steering.multipliers.get(LATENCY.name),
            "multipliers": {name: value for name, value in self._steering.multipliers.items() if name != LATENCY.name},
            "rng": rng_state(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": dict(self._sums),
            "history": list(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state. Learning rate and temperature follow from epoch and step.

        Raises:
            ValueError: not a state of such a search (or another exception, where tensors do not fit).
        """
        checked = SearcherState.model_validate(state)
        steps = 1 if checked.epoch == self.config.epochs else self._steps_of(checked.epoch)
        epochs = [record.epoch for record in checked.history]
        if checked.epoch > self.config.epochs or checked.step >= steps or epochs != list(range(1, checked.epoch + 1)):
            raise ValueError("epoch, step and history do not belong together")
        if set(checked.sums) != set(_NO_SUMS):
            raise ValueError("not the sums of an epoch")
        self.supernet.load_state_dict(checked.supernet)
        self._weights.load_state_dict(checked.weight_optimiser, checked.weight_batches, checked.weight_average)
        self._theta.load_state_dict(checked.theta_optimiser, checked.theta_batches, checked.theta_fit)
        self._generator.set_state(checked.generator)
        self._steering.restore({**checked.multipliers, LATENCY.name: checked.price})
        restore_rng(checked.rng)
        self.epoch, self.step = checked.epoch, checked.step
        self._sums, self.history = dict(checked.sums), list(state["history"])
