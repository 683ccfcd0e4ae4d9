"""Several processes that share every batch, started by torchrun: the same steps as one process with the whole batch.

Each process holds the whole net. Batch norm takes its statistics over all processes' images, gradients are averaged,
and all random choices come from generators with one seed; so every process goes through the same states. The process
group is lightning-fabric's (nccl between GPUs, gloo between CPUs). Number 0 alone writes files and speaks.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from tvmfbnet.errors import UserError
from tvmfbnet.extras import require
from tvmfbnet.nets.joint_batchnorm import SharedNorm
from tvmfbnet.training.device import pick_device

NetT = TypeVar("NetT", bound=nn.Module)


def is_first() -> bool:
    """Whether this process is number 0 of those that torchrun started, or the only one; known before they join."""
    return os.environ.get("RANK", "0") == "0"


def _replace_modules(net: nn.Module, replacements: Mapping[type[nn.Module], Callable[[Any], nn.Module]]) -> None:
    """Puts a new module in each place of a module of exactly these types; one in several places stays one."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(net.modules()):
        # named_children() names a module that stands in several places once.
        for name, child in list(parent._modules.items()):
            if child is not None and type(child) in replacements:
                if child not in made:
                    made[child] = replacements[type(child)](child)
                setattr(parent, name, made[child])


class SharedDropout(nn.Dropout):
    """Dropout on a process's part of a batch: draws for the whole batch, as one process does."""

    @classmethod
    def of(cls, dropout: nn.Dropout) -> SharedDropout:
        """The same dropout over all processes."""
        return cls(dropout.p, dropout.inplace).train(dropout.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of (n, ...): this process's images."""
        if not self.training or self.p == 0.0:
            return x
        size, rank, count = distributed.get_world_size(), distributed.get_rank(), len(x)
        kept = x.new_empty(size * count, *x.shape[1:]).bernoulli_(1 - self.p).div_(1 - self.p)
        return x * kept[rank * count : (rank + 1) * count]


def _leave() -> None:
    """Ends the process group; does nothing where it has ended."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Workers:
    """This process among those of the run.

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
        """The processes that torchrun started, or this one alone.

        Raises:
            UserError: no such device here.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls.alone(pick_device(device))
        require("distributed")
        from lightning_fabric import Fabric

        kind = pick_device(device).type
        if kind not in ("cpu", "cuda"):
            raise UserError(f"several processes need the device cpu or cuda, not {kind}")
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        fabric = Fabric(accelerator=kind, devices=local, num_nodes=size // local, strategy="ddp")
        fabric.launch()
        # Threads of gloo that still run when the interpreter ends would abort the process. fabric does it for nccl.
        atexit.register(_leave)
        return cls(fabric.global_rank, fabric.world_size, fabric.device, fabric)

    def share(self, net: NetT) -> NetT:
        """Lets the batch norms and dropouts of ``net``, in place, act as on the batch of all processes."""
        if self.size > 1:
            _replace_modules(net, {nn.BatchNorm2d: SharedNorm.of, nn.Dropout: SharedDropout.of})
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
        return self._reduced(figures, "mean")

    def total(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The sum of each figure over the processes."""
        return self._reduced(figures, "sum")

    def gathered(self, tally: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of each process, in their order, on the CPU; lengths may differ."""
        if self.size == 1:
            return [tally]
        every: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(every, tally.cpu())
        return every

    def _reduced(self, figures: Mapping[str, float], operation: str) -> dict[str, float]:
        if self.size == 1:
            return dict(figures)
        own = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        reduced = self._fabric.all_reduce(own, reduce_op=operation)
        return dict(zip(figures, reduced.tolist(), strict=True))

    def require_equal(self, what: str, number: int) -> None:
        """UserError if the processes have different numbers (below 2^40): they would diverge or hang."""
        if self.size > 1 and round(self.average({"number": float(number)})["number"]) != number:
            raise UserError(f"the {self.size} processes do not see the same {what}: let them share --out and --data")

    def wait(self) -> None:
        """A barrier: returns once all processes have called it."""
        if self.size > 1:
            self._fabric.barrier()
