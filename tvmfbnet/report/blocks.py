"""The look of a block in every figure: hue is the kernel size, darkness the expansion; hatched means *predicted*.

What else a block is, such as grouped, shifts the hue (:attr:`tvmfbnet.space.blocks.Block.tint`); activations other than
ReLU are paler. Hatching is reserved for predicted latencies.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Patch, Rectangle

from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.convs import RELU

SKIPPED, FIXED = "#cbd5e0", "#a0aec0"
HATCH = "////"
_HUES = {3: 0.59, 5: 0.07, 7: 0.36}
_OTHER_HUE = 0.78


def block_colour(block: str) -> str:
    """The colour of a block in all figures."""
    spec = parse_block(block)
    if spec is None:
        return SKIPPED
    hue = _HUES.get(spec.kernel, _OTHER_HUE) + spec.tint
    lightness = max(0.87 - 0.075 * spec.expansion, 0.25)
    return to_hex(colorsys.hls_to_rgb(hue % 1.0, lightness, 0.7 if spec.activation == RELU else 0.4))


def block_legend(blocks: Iterable[str]) -> list[Patch]:
    """One legend entry per distinct block, in order."""
    return [Patch(facecolor=block_colour(block), linewidth=0, label=block) for block in dict.fromkeys(blocks)]


def predicted_patch(colour: str = "#e2e8f0") -> Patch:
    """The legend entry that explains hatching."""
    return Patch(facecolor=colour, edgecolor="#4a5568", hatch=HATCH, linewidth=0, label="hatched: predicted")


def hatch_area(axes: Axes, place: tuple[float, float], width: float, height: float, colour: str) -> None:
    """Hatches a box whose latency was predicted."""
    axes.add_patch(Rectangle(place, width, height, fill=False, edgecolor=colour, hatch=HATCH, linewidth=0))
