"""Archs as canonical strings: stages joined by ``/``, blocks by ``,``.

``k3_e1/k3_e6,skip,k3_e1`` is an arch of a space with two stages of one and three layers. The string is shell-safe,
has one spelling per arch, and is what the product prints, stores and reads everywhere. Nets published with the FBNet
paper have names (``fbnet_a``) that resolve to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tvmfbnet.errors import ArchError
from tvmfbnet.space.arch import NAMED_ARCHS, Arch
from tvmfbnet.space.blocks import canonical_block
from tvmfbnet.space.space import Space


def parse_arch(text: str, space: Space) -> Arch:
    """Reads an arch string for a space.

    Raises:
        ArchError: stages or layers are not the space's, or a block is unknown or no candidate of its layer; says where.

    Example:
        >>> import tvmfbnet as tf
        >>> space = tf.Space.load("fbnet_mini")
        >>> tf.parse_arch("k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3", space).blocks[:3]
        ('k3_e1', 'skip', 'k5_e3')
    """
    stages = [[block.strip() for block in stage.split(",")] for stage in text.strip().split("/")]
    sizes = space.stage_sizes
    if len(stages) != len(sizes):
        raise ArchError(
            f"arch {_short(text)} has {_count(len(stages), 'stage')}, space {space.name} has {len(sizes)} "
            f"(of {_join(sizes)} layers); stages are joined by '/', blocks by ','"
        )
    for number, (stage, size) in enumerate(zip(stages, sizes, strict=True), start=1):
        if len(stage) != size:
            raise ArchError(
                f"arch {_short(text)}: stage {number} of {len(sizes)} has {_count(len(stage), 'block')}, "
                f"space {space.name} wants {size} (its stages have {_join(sizes)} layers)"
            )
    return check_arch([block for stage in stages for block in stage], space)


def check_arch(blocks: Sequence[str], space: Space) -> Arch:
    """An arch from a list of blocks; :class:`ArchError` if it does not fit the space."""
    if len(blocks) != len(space.layers):
        raise ArchError(
            f"the arch has {_count(len(blocks), 'block')}, space {space.name} has {len(space.layers)} layers"
        )
    checked = []
    for layer, name in zip(space.layers, blocks, strict=True):
        where = f"layer {layer.index} (stage {layer.stage + 1})"
        try:
            block = canonical_block(name)
        except ArchError as error:
            raise type(error)(f"{where}: {error}") from error
        if block not in layer.blocks:
            raise ArchError(
                f"{where} of space {space.name}: {block} is no candidate there; {_allowed(block, layer.blocks)}"
            )
        checked.append(block)
    return Arch(tuple(checked))


def format_arch(arch: Arch, space: Space) -> str:
    """The canonical string of an arch.

    Raises:
        ArchError: it does not fit the space.

    Example:
        >>> import tvmfbnet as tf
        >>> space = tf.Space.load("fbnet_mini")
        >>> slowest = tf.Arch(tuple(layer.blocks[0] for layer in space.layers))
        >>> tf.format_arch(slowest, space)
        'k3_e1,k3_e1/k3_e1,k3_e1,k3_e1/k3_e1,k3_e1'
    """
    remaining = iter(check_arch(arch.blocks, space).blocks)
    return "/".join(",".join(next(remaining) for _ in range(size)) for size in space.stage_sizes)


def resolve_arch(text: str, space: Space) -> tuple[Arch, Space]:
    """Reads an arch string or the name of a published net.

    Returns:
        The arch, and the space to build it in: a published net brings its own ``last_channels``.

    Raises:
        ArchError: neither a known name nor an arch of the space.
    """
    name = text.strip().lower().replace("-", "_")
    named = NAMED_ARCHS.get(name)
    if named is None:
        looks_like_name = "/" not in text and "," not in text and len(space.layers) > 1
        if looks_like_name:
            close = difflib.get_close_matches(name, NAMED_ARCHS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"named archs are {_join(NAMED_ARCHS)}"
            raise ArchError(f"unknown arch {_short(text)}: neither a named arch nor one of space {space.name}; {hint}")
        return parse_arch(text, space), space
    try:
        return check_arch(named.blocks, space), space.with_last_channels(named.last_channels)
    except ArchError as error:
        raise ArchError(f"{name} does not fit space {space.name}: {error}") from error


def _allowed(block: str, candidates: Sequence[str]) -> str:
    close = difflib.get_close_matches(block, candidates, n=1)
    return f"candidates are {_join(candidates)}" + (f" (closest: {close[0]})" if close else "")


def _join(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
