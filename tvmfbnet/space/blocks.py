"""Names of candidate blocks and their meaning.

A block is written ``k<kernel>_e<expansion>`` with ``_g<groups>`` appended where its 1x1 convs are grouped, or ``skip``
(Table 2 of the FBNet paper, arXiv 1812.03443). Beyond the paper ``_se`` adds squeeze-and-excitation (Hu et al. 2018)
and ``_hswish`` or ``_swish`` another activation (Howard et al. 2019): ``k5_e6_se_hswish``. Any odd kernel, expansion
and group count may be named, so a space of one's own is not bound to the paper's nine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvmfbnet.errors import ArchError

SKIP = "skip"

FBNET_BLOCKS: tuple[str, ...] = (
    "k3_e1",
    "k3_e1_g2",
    "k3_e3",
    "k3_e6",
    "k5_e1",
    "k5_e1_g2",
    "k5_e3",
    "k5_e6",
    SKIP,
)

RELU = "relu"
ACTIVATIONS: tuple[str, ...] = (RELU, "hswish", "swish")

_PATTERN = re.compile(r"k([1-9]\d?)_e([1-9]\d?)(?:_g([1-9]\d{0,2}))?(_se)?(?:_(relu|hswish|swish))?")


@dataclass(frozen=True)
class BlockSpec:
    """One convolutional block: 1x1 conv (expands), depthwise conv, 1x1 conv (projects).

    Attributes:
        kernel: side of the depthwise kernel; odd.
        expansion: channels inside the block, as a multiple of its input channels.
        groups: groups of both 1x1 convs; above 1 a channel shuffle follows the first.
        squeeze_excite: whether the depthwise conv's channels are weighted by what the whole image shows.
        activation: after the first two convs: ``relu``, ``hswish`` or ``swish``.
    """

    kernel: int
    expansion: int
    groups: int = 1
    squeeze_excite: bool = False
    activation: str = RELU

    @property
    def name(self) -> str:
        """The canonical name, e.g. ``k3_e1_g2``; one group and ReLU are not written."""
        groups = f"_g{self.groups}" if self.groups > 1 else ""
        activation = f"_{self.activation}" if self.activation != RELU else ""
        return f"k{self.kernel}_e{self.expansion}{groups}{'_se' if self.squeeze_excite else ''}{activation}"

    def squeezed(self, cin: int) -> int:
        """Channels between the two fully connected layers of squeeze-and-excitation: a quarter of the inner ones."""
        return max(1, cin * self.expansion // 4)


def parse_block(name: str) -> BlockSpec | None:
    """Reads a block name; ``None`` for ``skip``.

    Raises:
        ArchError: the name is malformed; says what is allowed.
    """
    if name == SKIP:
        return None
    match = _PATTERN.fullmatch(name)
    kernel = int(match[1]) if match else 0
    if match is None or kernel % 2 == 0:
        raise ArchError(
            f"unknown block {name!r}: a block is 'skip' or k<odd kernel>_e<expansion>, with _g<groups> appended "
            "where its 1x1 convs are grouped, _se for squeeze-and-excitation, _hswish or _swish for an activation, "
            "e.g. k3_e6, k5_e1_g2 or k5_e3_se_hswish"
        )
    return BlockSpec(kernel, int(match[2]), int(match[3] or 1), match[4] is not None, match[5] or RELU)


def canonical_block(name: str) -> str:
    """The one spelling of a block (``k3_e1_g1`` is ``k3_e1``); raises as :func:`parse_block` does."""
    spec = parse_block(name)
    return SKIP if spec is None else spec.name
