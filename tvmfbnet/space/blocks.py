"""Names of candidate blocks and what they mean.

A block is written ``k<kernel>_e<expansion>`` with ``_g<groups>`` appended where its 1x1 convs are grouped, or ``skip``
(Table 2 of the FBNet paper, arXiv 1812.03443). Any odd kernel, expansion and group count may be named, so a space of
one's own is not bound to the paper's nine.
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

_PATTERN = re.compile(r"k([1-9]\d?)_e([1-9]\d?)(?:_g([1-9]\d{0,2}))?")


@dataclass(frozen=True)
class BlockSpec:
    """One convolutional block: 1x1 conv (expands), depthwise conv, 1x1 conv (projects).

    Attributes:
        kernel: side of the depthwise kernel; odd.
        expansion: channels inside the block, as a multiple of its input channels.
        groups: groups of both 1x1 convs; above 1 a channel shuffle follows the first.
    """

    kernel: int
    expansion: int
    groups: int

    @property
    def name(self) -> str:
        """The canonical name, e.g. ``k3_e1_g2``; one group is not written."""
        return f"k{self.kernel}_e{self.expansion}" + (f"_g{self.groups}" if self.groups > 1 else "")


def parse_block(name: str) -> BlockSpec | None:
    """Reads a block name; ``None`` for ``skip``.

    Raises:
        ArchError: the name is not of the form that is allowed; the message says which is.
    """
    if name == SKIP:
        return None
    match = _PATTERN.fullmatch(name)
    kernel = int(match[1]) if match else 0
    if match is None or kernel % 2 == 0:
        raise ArchError(
            f"unknown block {name!r}: a block is 'skip' or k<odd kernel>_e<expansion>, with _g<groups> appended "
            "where its 1x1 convs are grouped, e.g. k3_e6 or k5_e1_g2"
        )
    return BlockSpec(kernel, int(match[2]), int(match[3] or 1))


def canonical_block(name: str) -> str:
    """The one spelling of a block (``k3_e1_g1`` is ``k3_e1``); raises as :func:`parse_block` does."""
    spec = parse_block(name)
    return SKIP if spec is None else spec.name
