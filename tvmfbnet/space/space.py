"""The search space itself: layers, each with its candidate blocks, between a fixed stem and a fixed head.

Everything here is plain, frozen and hashable, so that it can serve as a key (:class:`NetPart` keys the latency table),
cross process boundaries and be compared. Spaces come from YAML files: see :mod:`tvmfbnet.space.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tvmfbnet.files import digest
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.blocks import SKIP
from tvmfbnet.space.heads import CLASSIFIER, HEAD_RESIZE, head_parts

STEM, BLOCK, HEAD_CONV, HEAD_POOL, HEAD_LINEAR = "stem", "block", "head_conv", "head_pool", "head_linear"


@dataclass(frozen=True, order=True)
class NetPart:
    """One measurable piece of a net: the key of a cell of the latency table.

    Attributes:
        part: ``stem``, ``block``, or a part of the head (:mod:`tvmfbnet.space.heads`), such as ``head_linear``.
        block: the block's name; for the fixed parts what they compute, such as ``conv_k3`` or ``linear``.
        cin: input channels.
        cout: output channels.
        height: input height in pixels (1 for ``head_linear``).
        width: input width in pixels (1 for ``head_linear``).
        stride: step of the spatial conv (1 for pool and linear); the factor of a resize.
    """

    part: str
    block: str
    cin: int
    cout: int
    height: int
    width: int
    stride: int

    @property
    def out_height(self) -> int:
        """Output height in pixels: convs pad to ceil(height / stride), the pool leaves one, a resize adds."""
        return self._out(self.height)

    @property
    def out_width(self) -> int:
        """Output width in pixels."""
        return self._out(self.width)

    def _out(self, side: int) -> int:
        if self.part == HEAD_RESIZE:
            return side * self.stride
        return 1 if self.part == HEAD_POOL else math.ceil(side / self.stride)

    @property
    def has_residual(self) -> bool:
        """Whether the input is added to the output: a conv block that changes neither size nor channels."""
        return self.part == BLOCK and self.block != SKIP and self.stride == 1 and self.cin == self.cout

    @property
    def is_identity(self) -> bool:
        """Whether it computes nothing: ``skip`` where size and channels stay."""
        return self.part == BLOCK and self.block == SKIP and self.stride == 1 and self.cin == self.cout

    @property
    def name(self) -> str:
        """A readable unique name: ``block/k3_e6/64-64/14x14/s1``."""
        return f"{self.part}/{self.block}/{self.cin}-{self.cout}/{self.height}x{self.width}/s{self.stride}"

    @property
    def slug(self) -> str:
        """The name in a form that is safe as a file name: ``block-k3_e6-64-64-14x14-s1``."""
        return self.name.replace("/", "-")

    def to_dict(self) -> dict[str, Any]:
        """The fields, in order."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> NetPart:
        """Builds a part from the fields that :meth:`to_dict` gives; raises ``KeyError`` or ``ValueError``."""
        sizes = (int(value[key]) for key in ("cin", "cout", "height", "width", "stride"))
        return cls(str(value["part"]), str(value["block"]), *sizes)


@dataclass(frozen=True)
class Layer:
    """One searchable position: its shape and the blocks that may stand there.

    Attributes:
        index: position in the net, from 0.
        stage: stage it belongs to, from 0.
        cin: input channels.
        cout: output channels.
        height: input height in pixels.
        width: input width in pixels.
        stride: stride of the depthwise conv.
        blocks: candidate blocks, in the order of theta's columns.
    """

    index: int
    stage: int
    cin: int
    cout: int
    height: int
    width: int
    stride: int
    blocks: tuple[str, ...]

    def cell(self, block: str) -> NetPart:
        """The part that ``block`` would be at this layer, an identity skip included."""
        return NetPart(BLOCK, block, self.cin, self.cout, self.height, self.width, self.stride)

    def part(self, block: str) -> NetPart | None:
        """The part that ``block`` would be here, or ``None`` where nothing is computed (identity skip)."""
        part = self.cell(block)
        return None if part.is_identity else part


@dataclass(frozen=True)
class Space:
    """A search space: macro-architecture and candidate blocks. Sizes are in pixels and channels.

    Attributes:
        name: the shipped name, or the file's name without its suffix.
        input_channels: channels of the input image.
        height: input image height.
        width: input image width.
        classes: outputs of the net.
        stem_channels: output channels of the first 3x3 conv.
        stem_stride: its stride.
        last_channels: output channels of the head's 1x1 conv.
        layers: the searchable layers.
        description: one line for people.
        head_kind: ``classifier``, ``lraspp`` or ``ssdlite``.
    """

    name: str
    input_channels: int
    height: int
    width: int
    classes: int
    stem_channels: int
    stem_stride: int
    last_channels: int
    layers: tuple[Layer, ...]
    description: str = ""
    head_kind: str = CLASSIFIER

    @classmethod
    def load(cls, name_or_file: str | Path) -> Space:
        """A shipped space by name, or a space file; ``@64,classes=3,channels=1`` behind it changes it.

        Raises:
            UserError: there is no space of that name, or the file is missing or malformed; lists all problems.

        Example:
            >>> import tvmfbnet as tf
            >>> space = tf.Space.load("fbnet_mini@64,classes=3")
            >>> space.height, space.classes, len(space.layers)
            (64, 3, 7)
        """
        from tvmfbnet.space.registry import load_space

        return load_space(str(name_or_file))

    @property
    def size(self) -> int:
        """The number of archs."""
        return math.prod(len(layer.blocks) for layer in self.layers)

    @cached_property
    def stage_sizes(self) -> tuple[int, ...]:
        """The number of layers of each stage."""
        stages = [layer.stage for layer in self.layers]
        return tuple(stages.count(stage) for stage in range(stages[-1] + 1))

    @property
    def stem(self) -> NetPart:
        """The 3x3 conv before the first layer."""
        return NetPart(
            STEM, "conv_k3", self.input_channels, self.stem_channels, self.height, self.width, self.stem_stride
        )

    @property
    def head(self) -> tuple[NetPart, ...]:
        """The parts after the last layer: of a classifier its 1x1 conv, global average pool and linear layer.

        Raises:
            UserError: the head does not fit the space's images.
        """
        return head_parts(self)

    def fixed_parts(self) -> tuple[NetPart, ...]:
        """Stem and head, which every arch has."""
        return (self.stem, *self.head)

    def distinct_blocks(self) -> tuple[NetPart, ...]:
        """Every different block of the space by first appearance; identity skips are left out."""
        parts = (layer.part(block) for layer in self.layers for block in layer.blocks)
        return tuple(dict.fromkeys(part for part in parts if part is not None))

    def distinct_parts(self) -> tuple[NetPart, ...]:
        """Everything that can be measured: the fixed parts, then the distinct blocks."""
        return (*self.fixed_parts(), *self.distinct_blocks())

    def cells_of(self, arch: Arch) -> Iterator[tuple[Layer, NetPart]]:
        """Pairs each layer with the part the arch puts there, identity skips included."""
        return ((layer, layer.cell(block)) for layer, block in zip(self.layers, arch.blocks, strict=True))

    def parts_of(self, arch: Arch) -> tuple[NetPart, ...]:
        """The parts of one arch, in order of execution: stem, blocks (identity skips left out), head."""
        blocks = (part for _, part in self.cells_of(arch) if not part.is_identity)
        return (self.stem, *blocks, *self.head)

    def with_last_channels(self, channels: int) -> Space:
        """The same space with another width of the head's 1x1 conv."""
        return replace(self, last_channels=channels)

    def with_classes(self, classes: int) -> Space:
        """The same space with another number of classes."""
        return replace(self, classes=classes)

    def with_head(self, kind: str) -> Space:
        """The same space with another kind of head."""
        return replace(self, head_kind=kind)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, for a self-contained checkpoint; the head only where it is no classifier."""
        value = {**asdict(self), "layers": [{**asdict(layer), "blocks": list(layer.blocks)} for layer in self.layers]}
        if self.head_kind == CLASSIFIER:  # so are the identities of spaces from before there were other heads
            del value["head_kind"]
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Space:
        """Builds a space from :meth:`to_dict`'s data; raises ``TypeError`` or ``KeyError`` on other data."""
        layers = tuple(Layer(**{**layer, "blocks": tuple(layer["blocks"])}) for layer in value["layers"])
        return cls(**{**value, "layers": layers})


def content_key(space: Space) -> str:
    """The identity of a space, independent of its name: 16 hex digits of all that decides what its archs are and cost.

    Two spaces have one key exactly if they differ in name and description alone.
    """
    return digest({name: value for name, value in space.to_dict().items() if name not in ("name", "description")})
