"""What a kernel computes, as far as its schedule cares. Plain data, no TVM."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

Kind = Literal["conv", "depthwise", "matmul", "pool", "move"]


@dataclass(frozen=True)
class KernelShape:
    """What a kernel computes of one image, as far as its schedule cares.

    Attributes:
        kind: ``conv`` (also grouped), ``depthwise``, ``matmul`` (one row), ``pool`` (mean over space), ``move``
            (element by element).
        height, width, channels: of the output; ``move`` counts all but the last two axes as height.
        kernel, stride: of the window; 1 for the rest.
        reduction: products summed per output element and window position (input channels of a group).
        group: output channels per group; tiles must not cross group borders.
        padded: whether the input is padded.
        extra: elementwise inputs after the sum (bias, residual).
        element_bytes: of a weight or activation.
        sum_bytes: of an accumulator; wider than an element where products of small types are added up.
        dot: the instruction that multiplies integers (:mod:`tvmfbnet.compiler.dot_products`); empty without one.
        dot_group, dot_lanes: elements that it multiplies per lane, and its lanes. Output channels of a group are padded
            to whole lanes.
        dot_pixels: neighbouring pixels that it multiplies at once.
        dot_rows: neighbouring rows of the output that share packed rows of the input, with weights of their own.
    """

    kind: Kind
    height: int
    width: int
    channels: int
    kernel: int = 1
    stride: int = 1
    reduction: int = 1
    group: int = 1
    padded: bool = False
    extra: int = 0
    element_bytes: int = 4
    sum_bytes: int = 4
    dot: str = ""
    dot_group: int = 1
    dot_lanes: int = 1
    dot_pixels: int = 1
    dot_rows: int = 1

    @property
    def steps(self) -> int:
        """Steps of the innermost reduction loop."""
        return math.ceil(self.reduction / self.dot_group)

    @property
    def span(self) -> int:
        """Output channels that tiles divide: those of a group, padded to whole lanes."""
        return math.ceil(self.group / self.dot_lanes) * self.dot_lanes

    @property
    def products(self) -> int:
        """Multiply-adds of the whole kernel."""
        return self.height * self.width * self.channels * self.kernel**2 * self.reduction

    def positions(self, rows: int, columns: int) -> int:
        """Steps in which a tile's pixels are multiplied; an odd one at the end of a row takes a whole step."""
        return rows * math.ceil(columns / self.dot_pixels)

    def runs_on(self, columns: int) -> bool:
        """Whether a tile of that many columns runs on into the next row: the image is one row of pixels then."""
        return self.kind == "conv" and self.width % columns > 0

    def cuts(self, columns: int, channels: int) -> tuple[bool, bool]:
        """Whether the last tile of such tiles has fewer channels than the others, and whether it has fewer pixels."""
        return self.kind == "conv" and not self.dot and self.group % channels > 0, self.runs_on(columns)

    @property
    def narrows(self) -> bool:
        """Whether a schedule may keep the sums in the type of the elements: float32 sums of products of halves."""
        sizes = (self.element_bytes, self.sum_bytes)
        return self.kind in ("conv", "depthwise", "matmul") and sizes == (2, 4) and not self.dot

    @cached_property
    def anchor(self) -> KernelShape:
        """The shape without its epilogue, equal for kernels that differ only in that."""
        return replace(self, extra=0)
