"""Trains a net step by step: a state machine that resumes from any step, bit for bit on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Generic

import torch
from pydantic import Field
from torch import nn

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import Loader, in_order, split_indices
from tvmfbnet.errors import DivergedError, UserError
from tvmfbnet.nets.precision import computing_in, precision_on
from tvmfbnet.tasks import CLASSIFICATION, task_named
from tvmfbnet.training.checkpoint import State, Tensors, restore_optimiser, restore_rng, rng_state
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.device import NetT, pick_device, place_batch, place_net
from tvmfbnet.training.distillation import load_distillation
from tvmfbnet.training.evaluation import tally
from tvmfbnet.training.forecast import Forecaster
from tvmfbnet.training.mixing import Mixing, hard_labels
from tvmfbnet.training.timm_parts import ModelEmaV3, create_scheduler_v2
from tvmfbnet.training.workers import Workers

TEST_BATCH = 500
# The tasks of settings that mix the classes of images, or move what targets may describe.
_TASKS_OF = {
    "mixup": (CLASSIFICATION,),
    "cutmix": (CLASSIFICATION,),
    "rand_augment": (CLASSIFICATION, "multi_label"),
}


class Epoch(State):
    """An epoch's record in the history. Accuracies are between 0 and 1; ``seconds`` are this process's."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float | None
    seconds: float


class Sums(State):
    """Sums over the steps of the current epoch."""

    loss: float
    right: float
    seconds: float


class TrainerState(State):
    """Everything that the next step depends on."""

    net: Tensors
    ema: Tensors | None
    optimiser: dict[str, Any]
    batches: dict[str, Any]
    rng: dict[str, Any]
    done_steps: int = Field(ge=0)
    sums: Sums
    history: list[Epoch]


class Trainer(Generic[NetT]):
    """Trains a net, from the weights that it has.

    Args:
        net: images to outputs.
        data: images of the net's size; says the task.
        config: the settings.
        workers: the processes that share every batch; this one alone if None.

    Raises:
        UserError: a setting is not for the data set's task; or the net to distil from cannot be loaded, or does not
            fit the data set.
    """

    def __init__(self, net: NetT, data: ImageData, config: TrainConfig, workers: Workers | None = None) -> None:
        self.data, self.config, self.task = data, config, task_named(data.task)
        _require_task(config, self.task.name)
        self.workers = workers or Workers.alone(pick_device(config.device))
        self.device = self.workers.device
        self.precision = precision_on(self.device) if config.precision == "auto" else config.precision
        self._mixing = Mixing(config.mixup, config.cutmix, data.classes)
        self.net = self.workers.share(place_net(net, self.device))
        self._ema = ModelEmaV3(self.net, config.ema_decay, use_warmup=True) if config.ema_decay else None
        indices, _ = split_indices(len(data.train), 1.0, config.seed, config.train_images)
        augment = Augment(
            config.augment_shift,
            config.augment_flip,
            rand_operations=config.rand_augment,
            rand_magnitude=config.rand_magnitude,
        )
        part = (self.workers.rank, self.workers.size)
        self._batches = Loader(data, data.train, indices, config.batch_size, augment, config.seed, part)
        self._optimiser = torch.optim.SGD(
            _parameter_groups(self.net, config.weight_decay), lr=config.lr, momentum=config.momentum, nesterov=True
        )
        self._schedule = create_scheduler_v2(
            self._optimiser,
            sched="cosine" if config.decay_epochs is None else "multistep",
            # timm lets the rate fall in the step before a milestone: in the first one behind the epoch.
            decay_milestones=[epoch + 0.5 / len(self._batches) for epoch in config.decay_epochs or ()],
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            warmup_lr=config.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=len(self._batches),
        )[0]
        # Last: building that net draws random numbers.
        self.distilled = load_distillation(config, data, self.device, self.precision)
        self.done_steps = 0
        self.history: list[dict[str, Any]] = []
        self._sums = {"loss": 0.0, "right": 0.0, "seconds": 0.0}

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.config.epochs * len(self._batches)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done_steps >= self.total_steps

    @property
    def result_net(self) -> NetT:
        """The resulting net: the moving average, if there is one."""
        return self._ema.module if self._ema is not None else self.net

    def forecaster(self, what: str = "train") -> Forecaster:
        """The forecast of the remaining time, from the first steps; ``what`` is done, for its line."""
        steps = self.total_steps - self.done_steps
        tested = len(self.data.test) / self._batches.batch_size
        return Forecaster(self.config, steps, tested, steps / len(self._batches), self.device.type, what)

    def advance(self) -> bool:
        """Does one step (and the test that closes an epoch); True when it was the last one of an epoch.

        Raises:
            DivergedError: the loss is not finite; the state is unusable then.
        """
        started = time.monotonic()
        self._schedule.step_update(self.done_steps)
        pixels, targets = place_batch(*self._mixing.of(*self._batches.next()), self.device)
        self.net.train()
        self._optimiser.zero_grad()
        parts = min(self.config.accumulate, len(targets))
        for part_pixels, part_targets in zip(pixels.chunk(parts), targets.chunk(parts), strict=True):
            self._add_gradient(part_pixels, part_targets, len(part_targets) / len(targets))
        self.workers.average_gradients(self.net.parameters())
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.gradient_clip)
        self._optimiser.step()
        if self._ema is not None:
            self._ema.update(self.net, self.done_steps)
        self.done_steps += 1
        self._sums["seconds"] += time.monotonic() - started
        if self.done_steps % len(self._batches):
            return False
        self._close_epoch()
        return True

    def _add_gradient(self, pixels: torch.Tensor, targets: torch.Tensor, share: float) -> None:
        """Adds the gradient of a part of the batch, and its loss and accuracy to the sums.

        Args:
            pixels: of its images.
            targets: of its images (n, ...); shares of classes (n, classes) where images are mixed.
            share: of the batch.
        """
        with computing_in(self.precision, self.device):
            outputs = self.net(pixels).float()
        loss = self.task.loss(outputs, targets, self.config.label_smoothing)
        if self.distilled is not None:
            loss = self.distilled.loss(loss, outputs, pixels)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"training diverged in step {self.done_steps + 1} of {self.total_steps}: the loss is {loss.item()}; "
                "restart with a lower lr (the last good checkpoint is kept)"
            )
        (loss * share).backward()  # type: ignore[no-untyped-call]
        self._sums["loss"] += loss.item() * share
        told = hard_labels(targets) if self._mixing.is_on else targets
        self._sums["right"] += self.task.batch_accuracy(outputs, told) * share

    def _close_epoch(self) -> None:
        steps, epoch = len(self._batches), self.done_steps // len(self._batches)
        self._sums = self.workers.average(self._sums)
        tested = epoch % self.config.test_every == 0 or self.finished
        record = {
            "epoch": epoch,
            "lr": self._optimiser.param_groups[0]["lr"],
            "train_loss": self._sums["loss"] / steps,
            "train_accuracy": self._sums["right"] / steps,
            "test_accuracy": self.test() if tested else None,
            "seconds": self._sums["seconds"],
        }
        self.history.append(record)
        self._sums = {"loss": 0.0, "right": 0.0, "seconds": 0.0}

    def test(self) -> float:
        """The task's accuracy of :attr:`result_net` on the test images, between 0 and 1."""
        indices = torch.arange(len(self.data.test))[self.workers.rank :: self.workers.size]
        batches = in_order(self.data, self.data.test, indices, TEST_BATCH)
        own = tally(self.result_net.eval(), batches, self.device, self.task)
        return self.task.accuracy(self.task.added(self.workers.gathered(own)))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain data and tensors; called by all processes together."""
        self._sums = self.workers.average(self._sums)
        return {
            "net": self.net.state_dict(),
            "ema": self._ema.module.state_dict() if self._ema is not None else None,
            "optimiser": self._optimiser.state_dict(),
            "batches": self._batches.state_dict(),
            "rng": rng_state(),
            "done_steps": self.done_steps,
            "sums": dict(self._sums),
            "history": list(self.history),
        }

    def begin_at(self, state: Mapping[str, Any]) -> None:
        """Takes the place of another training from its saved state, with this net's own weights and no momentum.

        Steps, schedule, order of the images, random numbers and history continue there.

        Raises:
            ValueError: the state is of a training on other images.
        """
        self._batches.load_state_dict(state["batches"])
        restore_rng(state["rng"])
        self.done_steps, self.history = state["done_steps"], list(state["history"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state. The learning rate follows from the step.

        Raises:
            ValueError: not a state of such a training (or another exception, where tensors do not fit).
        """
        checked = TrainerState.model_validate(state)
        epochs = checked.done_steps // len(self._batches)
        if checked.done_steps > self.total_steps or [r.epoch for r in checked.history] != list(range(1, epochs + 1)):
            raise ValueError("step and history do not belong together")
        self.net.load_state_dict(checked.net)
        if self._ema is not None:
            self._ema.module.load_state_dict(checked.ema or {})
        restore_optimiser(self._optimiser, checked.optimiser)
        self._batches.load_state_dict(checked.batches)
        restore_rng(checked.rng)
        self.done_steps, self._sums = checked.done_steps, checked.sums.model_dump()
        self.history = [record.model_dump() for record in checked.history]


def _require_task(config: TrainConfig, task: str) -> None:
    """UserError where a setting is on that is not for this task."""
    refused = [name for name, tasks in _TASKS_OF.items() if getattr(config, name) and task not in tasks]
    if refused:
        tasks = " and ".join(_TASKS_OF[refused[0]])
        raise UserError(f"{refused[0]}: for {tasks}; the task of this data set is {task}")


def _parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only, as usual: norms and biases do better without."""
    decayed = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in net.parameters() if parameter.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
