"""Steps that an arch trains from the supernet's weights before it is judged: between supernet and short training.

What an arch has from the supernet serves all archs at once; after some steps of its own it tells more of what it can
learn alone, at a fraction of a training from scratch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import Loader
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.step import learn_batch
from tvmfbnet.tasks import task_named

# Of the learning rate that trained the supernet; it falls to 0 by a cosine.
_RATE = 0.5


@dataclass(frozen=True)
class ArchTuning:
    """Tunes archs, each with the same batches.

    Attributes:
        data: the images.
        indices: those that trained w.
        config: the settings: ``tune_steps``, and those of w.
    """

    data: ImageData
    indices: torch.Tensor
    config: SearchConfig

    def tune(self, net: ArchNet, device: torch.device) -> None:
        """Trains ``net`` in place; its batch norms' running statistics must be gathered again afterwards."""
        config, steps, task = self.config, self.config.tune_steps, task_named(self.data.task)
        seed = 3 * config.seed + 1
        batches = Loader(self.data, self.data.train, self.indices, config.batch_size, config.augment, seed)
        optimiser = torch.optim.SGD(
            net.parameters(), config.weight_lr, config.weight_momentum, weight_decay=config.weight_decay, nesterov=True
        )
        net.train()
        for step in range(steps):
            rate = (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.param_groups[0]["lr"] = _RATE * config.weight_lr * rate
            learn_batch(net, optimiser, batches.next(), config, device, task)
