"""The search itself: FBNet's alternating training of weights and theta, which can be stopped and continued anywhere.

A :class:`Searcher` is a small state machine: :meth:`Searcher.advance` does one optimiser step, and
:meth:`Searcher.state_dict` between any two steps is enough to resume exactly there, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch.nn import functional as F

from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import Loader, split_indices
from tvmfbnet.errors import DataError, DivergedError
from tvmfbnet.nets.precision import computing_in
from tvmfbnet.nets.supernet import Mix, Supernet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint, latency_constraint, merged
from tvmfbnet.search.controller import Steering
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.health import Health, health_of
from tvmfbnet.search.losses import expected_cost, penalised_loss
from tvmfbnet.search.plan import StepKind
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.state import SearcherState
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import restore_optimiser, restore_rng, rng_state
from tvmfbnet.training.device import pick_device, place_batch, place_net
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
        self.constraints = merged(latency_constraint(costs, config.latency_target_ms), constraints)
        self.workers = workers or Workers.alone(pick_device(config.device))
        self.device = self.workers.device
        # A subset of the classes may stand in for them all (FBNet, section 4.1); it has a classifier of its own.
        supernet = Supernet(replace(space, classes=data.classes), save_memory=config.save_memory)
        self.supernet = self.workers.share(place_net(supernet, self.device))
        self._cells_ms = torch.tensor(costs.padded()).to(self.device)
        self.weight_indices, self.theta_indices = split_indices(
            len(data.train), config.weight_share, config.seed, config.train_images
        )
        if min(len(self.weight_indices), len(self.theta_indices)) < 2:
            raise DataError(f"{data.name} gives too few training images to divide: {len(data.train)}")
        self._weight_batches = self._loader(self.weight_indices, config.batch_size, 1)
        self._theta_batches = self._loader(self.theta_indices, config.theta_batch_size or config.batch_size, 2)
        self._weight_optimiser = torch.optim.SGD(
            self.supernet.weight_parameters(),
            lr=config.weight_lr,
            momentum=config.weight_momentum,
            weight_decay=config.weight_decay,
        )
        self._theta_optimiser = torch.optim.Adam(
            self.supernet.theta_parameters(), lr=config.theta_lr, weight_decay=config.theta_decay
        )
        steps = config.epochs * len(self._weight_batches)
        self._schedule = CosineLRScheduler(self._weight_optimiser, t_initial=steps, t_in_epochs=False)
        self._generator = torch.Generator().manual_seed(3 * config.seed + 3)
        self.epoch, self.step = 0, 0
        self.history: list[dict[str, Any]] = []
        self._sums = dict(_NO_SUMS)
        self._waited = 0.0
        self._steering = Steering.of(self.constraints, config, len(self._theta_batches), self.device)

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

    def _is_warmup(self, epoch: int) -> bool:
        return epoch < self.config.warmup_epochs

    def _steps_of(self, epoch: int) -> int:
        return len(self._weight_batches) + (0 if self._is_warmup(epoch) else len(self._theta_batches))

    def advance(self) -> bool:
        """Does one optimiser step, of w or of theta; True when it was the last one of an epoch.

        Raises:
            DivergedError: a loss or theta is not finite; the state is then of no use any more.
        """
        started = time.monotonic()
        if self.step < len(self._weight_batches):
            self._weight_step()
        else:
            self._theta_step()
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
        if kind == "theta":
            self._theta_step()
        else:
            self._weight_step()
        return time.monotonic() - started

    def _weight_step(self) -> None:
        """One SGD step of w on the larger part of the images; theta is a constant."""
        self._schedule.step_update(self.epoch * len(self._weight_batches) + self.step)
        pixels, labels = place_batch(*self._weight_batches.next(), self.device)
        self.supernet.train()
        logits = self._logits(pixels, self._weight_mix())
        loss = F.cross_entropy(logits, labels)
        self._require_finite(loss)
        self._weight_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.workers.average_gradients(self.supernet.weight_parameters())
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.supernet.weight_parameters(), self.config.gradient_clip)
        self._weight_optimiser.step()
        self._count("weight", loss, logits, labels)

    @torch.no_grad()
    def _weight_mix(self) -> Mix:
        """How blocks are mixed when w learns: one at random in the warm-up, else by a sample of theta."""
        if self._is_warmup(self.epoch):
            return self.supernet.uniform_choice(self._generator)
        if self.config.weight_steps == "sampled":
            probabilities = self.supernet.probabilities().cpu()
            return torch.multinomial(probabilities, 1, generator=self._generator)[:, 0].tolist()
        return self.supernet.draw(self.config.weight_steps, self._temperature, self._generator)[0]

    @property
    def _temperature(self) -> float:
        return self.config.temperature_at(self.epoch)

    def _logits(self, pixels: torch.Tensor, mix: Mix) -> torch.Tensor:
        """The supernet's output in float32, computed at the precision that the settings ask for."""
        with computing_in(self.config.precision, self.device):
            return self.supernet(pixels, mix).float()  # type: ignore[no-any-return]

    def _theta_step(self) -> None:
        """One Adam step of theta on the other part of the images, under the latency-aware loss; w is a constant."""
        pixels, labels = place_batch(*self._theta_batches.next(), self.device)
        self.supernet.train()
        weights = self.supernet.weight_parameters()
        for parameter in weights:
            parameter.requires_grad_(False)
        mix, soft = self.supernet.draw(self.config.theta_steps, self._temperature, self._generator)
        logits = self._logits(pixels, mix)
        loss = self._theta_loss(F.cross_entropy(logits, labels), soft)
        self._require_finite(loss)
        self._theta_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.workers.average_gradients(self.supernet.theta_parameters())
        self._theta_optimiser.step()
        for parameter in weights:
            parameter.requires_grad_(True)
        if not bool(torch.isfinite(self.supernet.theta).all()):
            raise self._diverged("theta is not finite")
        with torch.no_grad():
            self._steering.update(self.supernet.probabilities())
        self._count("theta", loss, logits, labels)

    def _theta_loss(self, cross_entropy: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """The paper's loss on the sampled mixture's latency, or the constraints' on the expected costs.

        Constraints bind the archs that are sampled in the end, so they look at their mean, free of this step's noise.
        """
        if self._steering.active:
            return self._steering.penalised(cross_entropy, self.supernet.probabilities())
        config = self.config
        latency = expected_cost(soft, self._cells_ms, self.costs.fixed)
        return penalised_loss(
            cross_entropy, latency, config.loss, config.alpha, config.beta, config.latency_reference_ms
        )

    def _require_finite(self, loss: torch.Tensor) -> None:
        if not math.isfinite(loss.item()):
            raise self._diverged(f"the loss is {loss.item()}")

    def _diverged(self, what: str) -> DivergedError:
        sick = self._first_not_finite()
        rate = self._weight_optimiser.param_groups[0]["lr"]
        return DivergedError(
            f"the search diverged in step {self.done_steps + 1} of {self.total_steps}: {what}"
            + (f", first seen in {sick}" if sick else "")
            + f" (learning rate {rate:.3g}, temperature {self._temperature:.3g}); restart with a lower weight_lr or "
            "theta_lr, or set gradient_clip (the last good checkpoint is kept)"
        )

    def _first_not_finite(self) -> str | None:
        state = self.supernet.state_dict().items()
        return next((name for name, tensor in state if not bool(torch.isfinite(tensor).all())), None)

    def require_sound(self) -> None:
        """DivergedError when a weight or statistic is not finite: such a state must not become a checkpoint."""
        if self._first_not_finite() is not None:
            raise self._diverged("the weights are not finite")

    def _count(self, part: str, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self._sums[f"{part}_loss"] += loss.item()
        self._sums[f"{part}_right"] += (logits.argmax(dim=1) == labels).float().mean().item()

    @torch.no_grad()
    def health(self) -> Health:
        """The figures of theta as it is now."""
        return health_of(self.supernet.log_probabilities(), self.space, self.costs)

    @property
    def waited_seconds(self) -> float:
        """Time spent waiting for images so far."""
        return self._weight_batches.waited_seconds + self._theta_batches.waited_seconds

    @torch.no_grad()
    def _summary(self) -> dict[str, Any]:
        """An epoch's history record; theta's figures are null in the warm-up, which does not train it."""
        warmup = self._is_warmup(self.epoch)
        logs = self.supernet.log_probabilities()
        health = self.health()
        self._sums = self.workers.average(self._sums)
        waited, self._waited = self.waited_seconds - self._waited, self.waited_seconds
        steps, theta_steps = len(self._weight_batches), len(self._theta_batches)
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

    @torch.no_grad()
    def largest_use(self) -> float | None:
        """Theta's mean cost as a share of the bound, of the constraint that is used most; None without constraints."""
        return self._steering.largest_use(self.supernet.probabilities())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain data and tensors; called by all processes together."""
        self._sums = self.workers.average(self._sums)
        return {
            "supernet": self.supernet.state_dict(),
            "weight_optimiser": self._weight_optimiser.state_dict(),
            "theta_optimiser": self._theta_optimiser.state_dict(),
            "weight_batches": self._weight_batches.state_dict(),
            "theta_batches": self._theta_batches.state_dict(),
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
        restore_optimiser(self._weight_optimiser, checked.weight_optimiser)
        restore_optimiser(self._theta_optimiser, checked.theta_optimiser)
        self._weight_batches.load_state_dict(checked.weight_batches)
        self._theta_batches.load_state_dict(checked.theta_batches)
        self._generator.set_state(checked.generator)
        self._steering.restore({**checked.multipliers, LATENCY.name: checked.price})
        restore_rng(checked.rng)
        self.epoch, self.step = checked.epoch, checked.step
        self._sums, self.history = dict(checked.sums), list(state["history"])
