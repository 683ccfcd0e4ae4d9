"""Names of candidate blocks and their meaning.

A block is written ``k<kernel>_e<expansion>`` with ``_g<groups>`` appended where its 1x1 convs are grouped, or ``skip``
(Table 2 of the FBNet paper, arXiv 1812.03443). Beyond the paper ``_se`` adds squeeze-and-excitation (Hu et al. 2018)
and ``_hswish`` or ``_swish`` another activation (Howard et al. 2019): ``k5_e6_se_hswish``. Any odd kernel, expansion
and group count may be named, so a space of one's own is not bound to the paper's nine. Pruning leaves blocks with a
width of their own: ``k5_e6_w88`` is a ``k5_e6`` of whose channels 88 remain.

:class:`Block` is what a conv block of any structure says of itself. Parameters, MACs, latency features, simulated
latencies, accuracy models and colours follow from that, so no other file knows a structure. :data:`STRUCTURES` has all
that ship with the package; a user's own are in :mod:`tvmfbnet.space.own_blocks`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tvmfbnet.errors import ArchError, MissingBlockError
from tvmfbnet.space.block_files import ENVIRONMENT, load_environment_files
from tvmfbnet.space.convs import RELU, Conv
from tvmfbnet.space.own_blocks import own_block, unregistered

if TYPE_CHECKING:
    from tvmfbnet.space.space import NetPart

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

ACTIVATIONS: tuple[str, ...] = (RELU, "hswish", "swish")

_WIDTH = re.compile(r"(.+)_w([1-9]\d{0,4})")
_PATTERN = re.compile(r"k([1-9]\d?)_e([1-9]\d?)(?:_g([1-9]\d{0,2}))?(_se)?(?:_(relu|hswish|swish))?")


class Block(Protocol):
    """What a candidate block with convs says of itself, whatever its structure.

    Blocks with equal figures may still differ: models of latency and accuracy see the block's convs as well.
    """

    @property
    def name(self) -> str:
        """The canonical name, which :func:`parse_block` reads."""
        ...

    @property
    def kernel(self) -> int:
        """Side of its largest kernel; odd."""
        ...

    @property
    def expansion(self) -> int:
        """Channels inside the block, as a multiple of its input channels."""
        ...

    @property
    def groups(self) -> int:
        """Groups of its convs that are not depthwise: they divide input and output channels."""
        ...

    @property
    def squeeze_excite(self) -> bool:
        """Whether channels are weighted by what the whole image shows."""
        ...

    @property
    def activation(self) -> str:
        """The activation inside the block, one of :data:`ACTIVATIONS`."""
        ...

    @property
    def tint(self) -> float:
        """Tells blocks of one kernel and expansion apart in figures: a shift of the hue, -0.2 to 0.2."""
        ...

    def convs(self, part: NetPart) -> tuple[Conv, ...]:
        """Its convs in a layer, in order of execution."""
        ...


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

    def inner(self, cin: int) -> int:
        """Channels inside the block, of ``cin`` input channels."""
        return cin * self.expansion

    def squeezed(self, cin: int) -> int:
        """Channels between the two fully connected layers of squeeze-and-excitation: a quarter of the inner ones."""
        return max(1, cin * self.expansion // 4)

    @property
    def tint(self) -> float:
        """Grouped convs and squeeze-and-excitation shift the hue."""
        return _TINTS[self.groups > 1, self.squeeze_excite]

    def convs(self, part: NetPart) -> tuple[Conv, ...]:
        """Expansion, depthwise conv, the two layers of squeeze-and-excitation where it has one, projection."""
        return _inverted_residual(self, part, self.inner(part.cin))

    @classmethod
    def parse(cls, name: str) -> BlockSpec | None:
        """The block of a name; None if the name is not of this structure."""
        match = _PATTERN.fullmatch(name)
        if match is None or int(match[1]) % 2 == 0:
            return None
        return cls(int(match[1]), int(match[2]), int(match[3] or 1), match[4] is not None, match[5] or RELU)


@dataclass(frozen=True)
class NarrowedSpec:
    """A block without groups of whose inner channels some remain.

    Attributes:
        whole: the block that it was.
        width: channels inside, whatever its input channels.
    """

    whole: BlockSpec
    width: int

    @property
    def name(self) -> str:
        """The canonical name, e.g. ``k5_e6_w88``."""
        return f"{self.whole.name}_w{self.width}"

    @property
    def kernel(self) -> int:
        """That of the whole block; so are the other figures."""
        return self.whole.kernel

    @property
    def expansion(self) -> int:
        """That of the whole block: the width as a multiple of the input channels depends on the layer."""
        return self.whole.expansion

    @property
    def groups(self) -> int:
        """One."""
        return self.whole.groups

    @property
    def squeeze_excite(self) -> bool:
        """As the whole block."""
        return self.whole.squeeze_excite

    @property
    def activation(self) -> str:
        """As the whole block's."""
        return self.whole.activation

    @property
    def tint(self) -> float:
        """A shift of its own."""
        return -0.15

    def inner(self, cin: int) -> int:
        """The width."""
        return self.width

    def squeezed(self, cin: int) -> int:
        """As in the whole block."""
        return self.whole.squeezed(cin)

    def convs(self, part: NetPart) -> tuple[Conv, ...]:
        """As the whole block's, narrower."""
        return _inverted_residual(self, part, self.width)

    @classmethod
    def parse(cls, name: str) -> NarrowedSpec | None:
        """The block of a name; None if the name is not of this structure."""
        match = _WIDTH.fullmatch(name)
        whole = BlockSpec.parse(match[1]) if match is not None else None
        return None if match is None or whole is None or whole.groups > 1 else cls(whole, int(match[2]))


def _inverted_residual(spec: BlockSpec | NarrowedSpec, part: NetPart, inner: int) -> tuple[Conv, ...]:
    cin, cout, height, width = part.cin, part.cout, part.height, part.width
    groups, act, squeezed = spec.groups, spec.activation, spec.squeezed(part.cin)
    excitation = (
        Conv("linear", inner, squeezed, 1, 1, 1, 1, 1, True),
        Conv("linear", squeezed, inner, 1, 1, 1, 1, 1, True, activation="hsigmoid"),
    )
    return (
        Conv("pointwise", cin, inner, 1, groups, 1, height, width, True, activation=act),
        Conv("depthwise", inner, inner, spec.kernel, inner, part.stride, height, width, True, activation=act),
        *(excitation if spec.squeeze_excite else ()),
        Conv("pointwise", inner, cout, 1, groups, 1, part.out_height, part.out_width, False, part.has_residual),
    )


# By: grouped, squeeze-and-excitation.
_TINTS = {(False, False): 0.0, (True, False): 0.08, (False, True): -0.07, (True, True): 0.13}


@dataclass(frozen=True)
class Structure:
    """A structure of conv blocks.

    Attributes:
        form: how its names are written, for messages.
        parse: the block of a name; None if the name is of another structure.
    """

    form: str
    parse: Callable[[str], Block | None]


# By the name of the structure. Its module is in :data:`tvmfbnet.nets.blocks.MODULES`.
STRUCTURES: dict[str, Structure] = {
    "inverted_residual": Structure(
        "k<odd kernel>_e<expansion>, with _g<groups> appended where its 1x1 convs are grouped, _se for "
        "squeeze-and-excitation, _hswish or _swish for an activation, e.g. k3_e6, k5_e1_g2 or k5_e3_se_hswish",
        BlockSpec.parse,
    ),
    "narrowed": Structure(
        "such a block without groups with _w<channels inside> appended: k5_e6_w88", NarrowedSpec.parse
    ),
}


def parse_block(name: str) -> Block | None:
    """Reads a block name; ``None`` for ``skip``.

    Raises:
        ArchError: the name is malformed; says what is allowed.
        MissingBlockError: it is of a user's own block that is not registered here with this source.
    """
    if name == SKIP:
        return None
    block = shipped_block(name) or own_block(name)
    if block is None:
        load_environment_files()
        block = own_block(name)
    if block is not None:
        return block
    missing = unregistered(name, ENVIRONMENT)
    if missing is not None:
        raise MissingBlockError(f"unknown block {name!r}: {missing}")
    forms = "; or ".join(structure.form for structure in STRUCTURES.values())
    raise ArchError(f"unknown block {name!r}: a block is 'skip' or {forms}")


def shipped_block(name: str) -> Block | None:
    """The block of a name of one of :data:`STRUCTURES`; None if it is of none."""
    return next((block for structure in STRUCTURES.values() if (block := structure.parse(name)) is not None), None)


def is_known(name: str) -> bool:
    """Whether a block can be read here: one of a user's own, only where it is registered with the same source."""
    try:
        parse_block(name)
    except ArchError:
        return False
    return True


def block_features(name: str) -> list[float]:
    """A block in five numbers, for models of accuracy.

    Whether it is skipped, the logarithms of expansion and groups, the kernel, whether it has squeeze-and-excitation.
    """
    block = parse_block(name)
    if block is None:
        return [1.0, 0.0, 0.0, 0.0, 0.0]
    return [0.0, math.log(block.expansion), math.log(block.groups), block.kernel, float(block.squeeze_excite)]


def canonical_block(name: str) -> str:
    """The one spelling of a block (``k3_e1_g1`` is ``k3_e1``); raises as :func:`parse_block` does."""
    spec = parse_block(name)
    return SKIP if spec is None else spec.name
