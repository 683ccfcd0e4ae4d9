"""Selects parts of a space: those whose names match a glob, or those that one arch uses."""

from __future__ import annotations

from fnmatch import fnmatch

from tvmfbnet.errors import UserError
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import NetPart, Space


def choose_parts(space: Space, blocks: str, arch: Arch | None = None) -> tuple[NetPart, ...]:
    """Stem, head and the distinct blocks whose block name or whole name matches the glob ``blocks``.

    With an arch, only those blocks that it uses.
    """
    used = None if arch is None else set(space.parts_of(arch))
    chosen = [
        part
        for part in space.distinct_blocks()
        if any(fnmatch(name, blocks) for name in _names(part)) and (used is None or part in used)
    ]
    if not chosen:
        raise UserError(f"no block of space {space.name} matches --blocks {blocks!r}; try k3_* or block/*/16-16/*")
    return (*space.fixed_parts(), *chosen)


def _names(part: NetPart) -> tuple[str, ...]:
    """What a glob may match: of a user's own block also its name without the digest."""
    return part.block, part.name, part.block.partition("@")[0]
