"""Arguments of public functions: spaces, targets and archs as objects or by name, settings as objects or plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmfbnet.config import ConfigT, validate
from tvmfbnet.dtypes import INT8, MIXED, is_mixed, spelled_with_dtype, without_mixed
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import check_arch, resolve_arch
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import Target, in_dtype


def as_space(space: Space | str) -> Space:
    """A space, or the one of a name or file."""
    return space if isinstance(space, Space) else Space.load(space)


def as_target(target: Target | str, dtype: str | None = None) -> Target:
    """A target, or the one of a name or file; in ``dtype`` if there is one.

    Raises:
        UserError: no such target, or it cannot compute in that dtype.
    """
    if isinstance(target, Target):
        return in_dtype(target, dtype)
    return Target.load(spelled_with_dtype(target, dtype))


def as_mixable_target(target: Target | str, dtype: str | None = None) -> tuple[Target, bool]:
    """As :func:`as_target`, and whether mixed dtypes are asked for; the target's own is int8 then.

    Raises:
        UserError: as :func:`as_target`.
    """
    if isinstance(target, str):
        spelled = spelled_with_dtype(target, dtype)
        mixed = is_mixed(spelled)
        return as_target(without_mixed(spelled), INT8.name if mixed else None), mixed
    return in_dtype(target, INT8.name if dtype == MIXED else dtype), dtype == MIXED


def as_arch(arch: Arch | str, space: Space) -> tuple[Arch, Space]:
    """An arch of a space, and the space with the head that a published net came with.

    Raises:
        ArchError: the arch does not fit the space.
    """
    return (check_arch(arch.blocks, space), space) if isinstance(arch, Arch) else resolve_arch(arch, space)


def as_path(path: str | Path | None) -> Path | None:
    """A path, if there is one."""
    return None if path is None else Path(path)


def as_settings(model: type[ConfigT], settings: ConfigT | Mapping[str, Any] | None, what: str) -> ConfigT:
    """Settings from plain data, whose problems are told in one line; the defaults if there are none.

    Raises:
        ConfigError: unknown names or bad values; lists all of them.
    """
    return settings if isinstance(settings, model) else validate(model, dict(settings or {}), what)


def names_of(
    space: Space | str | None = None,
    target: Target | str | None = None,
    dtype: str | None = None,
    **others: object,
) -> dict[str, object]:
    """What the caller named, for advice in messages: objects have no name that a command would know."""
    names = dict(others)
    if isinstance(space, str):
        names["space"] = space
    if isinstance(target, str):
        spelled = without_mixed(spelled_with_dtype(target, dtype))
        names |= {"target": spelled, "named": Target.load(spelled).name}
    return names
