"""One conv or matrix product of a part: the source of counts, features and simulated latencies of every block."""

from __future__ import annotations

import math
from dataclasses import dataclass

RELU = "relu"


@dataclass(frozen=True)
class Conv:
    """One conv (or the classifier) with the BatchNorm behind it, which a compiler fuses into one kernel.

    Attributes:
        kind: ``pointwise`` (1x1), ``depthwise``, ``dense`` (any other conv) or ``linear`` (fully connected).
        cin: input channels.
        cout: output channels.
        kernel: side of the kernel.
        groups: groups of the conv.
        stride: its stride.
        height: input height in pixels.
        width: input width in pixels.
        relu: whether an activation follows.
        activation: which one, where one follows: a ReLU, unless the block names another.
        learnable: parameters, where they are not those of a conv with BatchNorm or of a classifier.
        residual: whether the block's input is added to the output (fused too, so it makes another kernel).
    """

    kind: str
    cin: int
    cout: int
    kernel: int
    groups: int
    stride: int
    height: int
    width: int
    relu: bool
    residual: bool = False
    activation: str = RELU
    learnable: int | None = None

    @property
    def weights(self) -> int:
        """Elements of the kernel."""
        return self.cin // self.groups * self.cout * self.kernel**2

    @property
    def outputs(self) -> int:
        """Elements of the output for one image."""
        return self.cout * math.ceil(self.height / self.stride) * math.ceil(self.width / self.stride)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weights * (self.outputs // self.cout)

    @property
    def params(self) -> int:
        """Learnable parameters: the kernel and BatchNorm's two per channel, or the classifier's bias."""
        if self.learnable is not None:
            return self.learnable
        return self.weights + self.cout * (1 if self.kind == "linear" else 2)
