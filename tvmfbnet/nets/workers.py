"""Several processes that share every batch, started by torchrun: the same steps as one process with the whole batch.

Each process holds the whole net. Batch norm takes its statistics over all processes' pictures, gradients are averaged,
and all random choices come from generators with one seed; so every process goes through the same states. The process
group is lightning-fabric's (nccl between GPUs, gloo between CPUs).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from tvmfbnet.errors import UserError
from tvmfbnet.nets.device import pick_device
from tvmfbnet.nets.norms import SharedNorm

NetT = TypeVar("NetT", bound=nn.Module)


@dataclass(frozen=True)
class Workers:
    """This process among its fellows.

    Attributes:
        rank: its number, from 0; number 0 writes the files.
        size: how many there are.
        device: where it computes.
    """

    rank: int
    size: int
    device: torch.device
    _fabric: Any = None

    @classmethod
    def alone(cls, device: torch.device) -> Workers:
        """One process."""
        return cls(0, 1, device)

    @classmethod
    def join(cls, device: str) -> Workers:
        """The processes that torchrun started, or one alone where it started none.

        Raises:
            UserError: no such device here.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls.alone(pick_device(device))
        from lightning_fabric import Fabric

        kind = pick_device(device).type
        if kind not in ("cpu", "cuda"):
            raise UserError(f"several processes need the device cpu or cuda, not {kind}")
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        fabric = Fabric(accelerator=kind, devices=local, num_nodes=size // local, strategy="ddp")
        fabric.launch()
        return cls(fabric.global_rank, fabric.world_size, fabric.device, fabric)

    def share(self, net: NetT) -> NetT:
        """Lets the batch norms of ``net``, in place, take their statistics over all processes."""
        if self.size > 1:
            for module in net.modules():
                if type(module) is nn.BatchNorm2d:
                    module.__class__ = SharedNorm
        return net

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients over the processes, in place; all processes ran the same blocks."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        joined = self._fabric.all_reduce(torch.cat([grad.reshape(-1) for grad in gradients]), reduce_op="mean")
        for gradient, mean in zip(gradients, joined.split([grad.numel() for grad in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def average(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The mean of each figure over the processes."""
        if self.size == 1:
            return dict(figures)
        means = self._fabric.all_reduce(torch.tensor(list(figures.values()), dtype=torch.float64), reduce_op="mean")
        return dict(zip(figures, means.tolist(), strict=True))

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            self._fabric.barrier()
