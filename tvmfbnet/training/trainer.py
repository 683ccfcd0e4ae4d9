"""Training a net, step by step: a state machine that can be stopped and continued anywhere, bit for bit on a CPU."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional as F

from tvmfbnet.data.changes import Augment
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import Loader, in_order, split_indices
from tvmfbnet.errors import DivergedError
from tvmfbnet.nets.arch_net import ArchNet, build_net
from tvmfbnet.nets.checkpoint import restore_rng, rng_state
from tvmfbnet.nets.device import pick_device, place_batch, place_net
from tvmfbnet.nets.evaluation import accuracy
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.config import TrainConfig

TEST_BATCH = 500


class Trainer:
    """Trains the net of one arch from scratch.

    Args:
        arch: the net.
        space: its macro-architecture.
        data: pictures of the space's size.
        config: the settings.
    """

    def __init__(self, arch: Arch, space: Space, data: ImageData, config: TrainConfig) -> None:
        self.data, self.config = data, config
        self.device = pick_device(config.device)
        self.net = place_net(build_net(arch, space, config.dropout), self.device)
        self._ema = ModelEmaV3(self.net, config.ema_decay, use_warmup=True) if config.ema_decay else None
        indices, _ = split_indices(len(data.train), 1.0, config.seed, config.train_images)
        augment = Augment(config.augment_shift, config.augment_flip)
        self._batches = Loader(data, data.train, indices, config.batch_size, augment, config.seed)
        self._optimiser = torch.optim.SGD(
            _parameter_groups(self.net, config.weight_decay), lr=config.lr, momentum=config.momentum, nesterov=True
        )
        self._schedule = create_scheduler_v2(
            self._optimiser,
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            warmup_lr=config.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=len(self._batches),
        )[0]
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
    def result_net(self) -> ArchNet:
        """The net to keep: the moving average where there is one."""
        return self._ema.module if self._ema is not None else self.net

    def advance(self) -> bool:
        """Does one step (and the test that closes an epoch); True when it was the last one of an epoch.

        Raises:
            DivergedError: the loss is not finite; the state is then of no use any more.
        """
        started = time.monotonic()
        self._schedule.step_update(self.done_steps)
        pixels, labels = place_batch(*self._batches.next(), self.device)
        self.net.train()
        logits = self.net(pixels)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"training diverged in step {self.done_steps + 1} of {self.total_steps}: the loss is {loss.item()}; "
                "start anew with a lower lr (the last good checkpoint is kept)"
            )
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.gradient_clip)
        self._optimiser.step()
        if self._ema is not None:
            self._ema.update(self.net, self.done_steps)
        self.done_steps += 1
        self._sums["loss"] += loss.item()
        self._sums["right"] += (logits.argmax(dim=1) == labels).float().mean().item()
        self._sums["seconds"] += time.monotonic() - started
        if self.done_steps % len(self._batches):
            return False
        self._close_epoch()
        return True

    def _close_epoch(self) -> None:
        steps, epoch = len(self._batches), self.done_steps // len(self._batches)
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
        """Top-1 accuracy of :attr:`result_net` on the test pictures, between 0 and 1."""
        indices = torch.arange(len(self.data.test))
        net = self.result_net.eval()
        return accuracy(net, in_order(self.data, self.data.test, indices, TEST_BATCH), self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain data and tensors."""
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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state. The learning rate follows from the step."""
        self.net.load_state_dict(state["net"])
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._batches.load_state_dict(state["batches"])
        restore_rng(state["rng"])
        self.done_steps = state["done_steps"]
        self._sums, self.history = dict(state["sums"]), list(state["history"])


def _parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only, as is usual: norms and biases do better without."""
    decayed = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in net.parameters() if parameter.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
