"""How theta learns from images that w never sees: the interface, and the paper's way, by gradient.

The other way fits theta to validation losses of drawn archs: :mod:`tvmfbnet.search.fitted_theta`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from tvmfbnet.data.loader import Loader
from tvmfbnet.nets.precision import computing_in
from tvmfbnet.nets.sampling_modes import Form
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.controller import Steering
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.losses import expected_cost, penalised_loss
from tvmfbnet.search.step import NotFiniteError, StepFigures, require_finite
from tvmfbnet.tasks.task import Task
from tvmfbnet.training.checkpoint import restore_optimiser
from tvmfbnet.training.device import place_batch
from tvmfbnet.training.workers import Workers


class ThetaTraining(Protocol):
    """The steps of theta."""

    batches: Loader

    def step(self, epoch: int) -> StepFigures:
        """One step; w is a constant. NotFiniteError where the loss or theta is not finite."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides theta itself, the steering and the generator."""
        ...

    def load_state_dict(self, optimiser: Any, batches: Any, fit: Any) -> None:
        """Goes back to a saved state, in its parts; ValueError where they are not of such a training."""
        ...


class GradientTheta:
    """Adam on the latency-aware loss of a mixture, or of one or two paths with weights that pass a gradient on.

    Args:
        supernet: its theta learns.
        batches: of the images that train theta.
        costs: latency of every candidate.
        config: the settings.
        form: how many blocks of a layer run.
        steering: the constraints that theta learns under.
        workers: the processes that share every batch.
        generator: of the mixtures.
        task: what theta learns.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: Loader,
        costs: AdditiveCosts,
        config: SearchConfig,
        form: Form,
        steering: Steering,
        workers: Workers,
        generator: torch.Generator,
        task: Task,
    ) -> None:
        self._task = task
        self._supernet, self.batches, self._costs, self._config, self._form = supernet, batches, costs, config, form
        self._steering, self._workers, self._generator = steering, workers, generator
        self._cells_ms = torch.tensor(costs.padded()).to(workers.device)
        self._optimiser = torch.optim.Adam(
            supernet.theta_parameters(), lr=config.theta_lr, weight_decay=config.theta_decay
        )

    def step(self, epoch: int) -> StepFigures:
        """One Adam step of theta under the latency-aware loss; w is a constant."""
        pixels, targets = place_batch(*self.batches.next(), self._workers.device)
        self._supernet.train()
        weights = self._supernet.weight_parameters()
        for parameter in weights:
            parameter.requires_grad_(False)
        mix, soft = self._supernet.draw(self._form, self._config.temperature_at(epoch), self._generator)
        with computing_in(self._config.precision, self._workers.device):
            outputs = self._supernet(pixels, mix).float()
        loss = self._loss(self._task.loss(outputs, targets), soft)
        value = require_finite(loss)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._workers.average_gradients(self._supernet.theta_parameters())
        self._optimiser.step()
        for parameter in weights:
            parameter.requires_grad_(True)
        if not bool(torch.isfinite(self._supernet.theta).all()):
            raise NotFiniteError("theta is not finite")
        with torch.no_grad():
            self._steering.update(self._supernet.probabilities())
        return StepFigures(value, self._task.batch_accuracy(outputs, targets))

    def _loss(self, task_loss: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """The paper's loss on the sampled mixture's latency, or the constraints' on the expected costs.

        Constraints bind the archs that are sampled in the end, so they look at their mean, free of this step's noise.
        """
        if self._steering.active:
            return self._steering.penalised(task_loss, self._supernet.probabilities())
        config = self._config
        latency = expected_cost(soft, self._cells_ms, self._costs.fixed)
        return penalised_loss(task_loss, latency, config.loss, config.alpha, config.beta, config.latency_reference_ms)

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and the loader's state."""
        return {"theta_optimiser": self._optimiser.state_dict(), "theta_batches": self.batches.state_dict()}

    def load_state_dict(self, optimiser: Any, batches: Any, fit: Any) -> None:
        """Goes back to a saved state."""
        if fit is not None:
            raise ValueError("theta was fitted, against the settings")
        restore_optimiser(self._optimiser, optimiser)
        self.batches.load_state_dict(batches)
