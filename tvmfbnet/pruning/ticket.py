"""What remains of a net after some rounds: the interface that the rounds work with, whatever is removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvmfbnet.nets.network import ArchNet
from tvmfbnet.training.checkpoint import Tensors


@dataclass(frozen=True)
class Size:
    """How much of a net remains.

    Attributes:
        weights: of the convs and the classifier, those that remain.
        remaining: their share of the dense net's, between 0 and 1.
        emptied_layers: convs of which no weight remains.
        latency_ms: by the latency table; None where none was asked.
    """

    weights: int
    remaining: float
    emptied_layers: int = 0
    latency_ms: float | None = None


class Ticket(Protocol):
    """A part of a dense net that can be trained on its own."""

    @property
    def size(self) -> Size:
        """How much remains."""
        ...

    def build(self, weights: Tensors) -> ArchNet:
        """The net to train, from weights of the dense net by name; what was removed has no effect and stays removed."""
        ...

    def control(self, seed: int) -> ArchNet:
        """The same net from fresh random weights."""
        ...

    def plain(self, net: ArchNet) -> ArchNet:
        """An ordinary net that computes what a trained net of :meth:`build` does; may change ``net``."""
        ...

    def pruned(self, trained: ArchNet, level: float) -> Ticket:
        """The next, smaller ticket.

        Args:
            trained: a net of :meth:`plain`.
            level: what to reach; a share of the weights, or a latency in milliseconds.
        """
        ...
