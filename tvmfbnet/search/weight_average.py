"""A moving average of a supernet's weights: archs judged with it are judged without the noise of the last steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from tvmfbnet.nets.supernet import Supernet

# The first steps would count for far too much with the full decay: it is at most (1 + steps) / (_EARLY + steps).
_EARLY = 10


class WeightAverage:
    """The average of w over the steps, newer ones counting more.

    Args:
        supernet: whose weights are averaged; as they are now, to begin with.
        decay: what the average keeps of itself in each step, once there have been many.
    """

    def __init__(self, supernet: Supernet, decay: float) -> None:
        self._supernet, self._decay = supernet, decay
        self._averages = [parameter.detach().clone() for parameter in supernet.weight_parameters()]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Takes the weights in, after ``steps`` steps."""
        decay = min(self._decay, (1 + steps) / (_EARLY + steps))
        torch._foreach_lerp_(self._averages, self._weights(), 1 - decay)

    @torch.no_grad()
    def averaged(self) -> Supernet:
        """A copy of the supernet with the average as its weights; recalibrate the batch norms of what it gives."""
        twin = copy.deepcopy(self._supernet)
        for parameter, average in zip(twin.weight_parameters(), self._averages, strict=True):
            parameter.copy_(average)
        return twin

    def _weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in self._supernet.weight_parameters()]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages by number."""
        return {str(number): tensor for number, tensor in enumerate(self._averages)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes back to a saved state; ValueError if it is not one of this supernet."""
        shapes = {str(number): tensor.shape for number, tensor in enumerate(self._averages)}
        if {name: tensor.shape for name, tensor in state.items()} != shapes:
            raise ValueError("not the averages of this supernet's weights")
        for name, tensor in state.items():
            self._averages[int(name)].copy_(tensor)
