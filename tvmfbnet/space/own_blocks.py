"""Blocks of a user's own, written in Python: a name, a builder of the module, and the source that both come from.

``tvmfbnet.block`` registers one (:mod:`tvmfbnet.nets.own_blocks`). In archs, tables, journals and checkpoints it is
called ``my_block@3f9a1c2b``, with a digest of its source (:mod:`tvmfbnet.space.block_source`): a block that was changed
is another block, and shares no latency, no schedule and no weights with the one before. People may leave the digest
out; the block that was registered last is meant then. Files of blocks: :mod:`tvmfbnet.space.block_files`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmfbnet.errors import ArchError
from tvmfbnet.space.block_source import SourceFile, source_digest
from tvmfbnet.space.convs import RELU, Conv

if TYPE_CHECKING:
    from tvmfbnet.space.space import NetPart

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_WRITTEN = re.compile(rf"({NAME.pattern})(?:@([0-9a-f]{{8}}))?")


@dataclass(frozen=True)
class OwnBlock:
    """One registered block, as :class:`tvmfbnet.space.blocks.Block` asks for.

    Attributes:
        label: the name that it was registered under.
        build: makes its module from (cin, cout, stride).
        trace: its convs in a part, from (build, part); raises :class:`ArchError` where it cannot stand there.
        source: that defines it.
        kernel: side of its largest kernel, for figures and models of accuracy.
        expansion: channels inside, as a multiple of its input channels, for the same.
        groups: that its input and output channels must divide into.
    """

    label: str
    build: Callable[[int, int, int], Any]
    trace: Callable[[OwnBlock, NetPart], tuple[Conv, ...]]
    source: SourceFile
    kernel: int = 1
    expansion: int = 1
    groups: int = 1

    squeeze_excite = False
    activation = RELU

    @cached_property
    def name(self) -> str:
        """The canonical name, ``my_block@3f9a1c2b``."""
        return f"{self.label}@{source_digest(self.source)}"

    @property
    def tint(self) -> float:
        """A shift of the hue by name, in steps that tell a handful of blocks apart."""
        return (sum(map(ord, self.label)) % 9 - 4) / 20

    def convs(self, part: NetPart) -> tuple[Conv, ...]:
        """Its convolutions, linear layers and matrix products in a layer, in order of execution.

        Raises:
            ArchError: it cannot be built there, or maps to another shape than the layer's.
        """
        return self.trace(self, part)

    def fault(self, part: NetPart) -> str | None:
        """Why it cannot stand there; None if it can."""
        try:
            self.convs(part)
        except ArchError as error:
            return str(error)
        return None


# By label; the last of each is the one that a name without digest means.
_REGISTERED: dict[str, list[OwnBlock]] = {}


def register(block: OwnBlock) -> None:
    """Makes a block known under its name. One of that name and of other source stays known by its digest."""
    others = [other for other in _REGISTERED.get(block.label, []) if other.source != block.source]
    _REGISTERED[block.label] = [*others, block]


def prefer(path: Path, text: str) -> None:
    """Makes the blocks of a file that was loaded before the ones that names without digest mean."""
    for blocks in list(_REGISTERED.values()):
        for block in [block for block in blocks if (block.source.path, block.source.text) == (path, text)]:
            register(block)


def own_block(name: str) -> OwnBlock | None:
    """The block of a name, with or without digest; None where none is registered."""
    match = _WRITTEN.fullmatch(name)
    if match is None:
        return None
    fitting = [block for block in _REGISTERED.get(match[1], []) if match[2] is None or block.name == name]
    return fitting[-1] if fitting else None


def unregistered(name: str, environment: str) -> str | None:
    """What to say of the canonical name of a block that is not registered; None for any other name."""
    match = _WRITTEN.fullmatch(name)
    if match is None or match[2] is None:
        return None
    current = own_block(match[1])
    if current is None:
        return (
            f"no block {match[1]} is registered here; name the Python file that defines it in the space file "
            f"(block_files) or in the environment variable {environment}"
        )
    return (
        f"block {match[1]} was changed since, and is {current.name} in {current.source.path}; restore that version, or "
        "measure, search and train again with this one"
    )
