"""Finds search spaces: those shipped with the package by name, a user's own by file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from tvmfbnet.errors import UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.space.schema import build_space
from tvmfbnet.space.space import Space

_DEFINITIONS = Path(__file__).parent / "definitions"


def list_spaces() -> list[str]:
    """Names of the shipped spaces."""
    return sorted(path.stem for path in _DEFINITIONS.glob("*.yaml"))


def load_space(name_or_file: str) -> Space:
    """Reads a shipped space by name, or a space file by path (it ends in ``.yaml`` or ``.yml``).

    ``@`` and a size behind either gives the space another input resolution: ``fbnet@160`` or ``fbnet@160x128`` (height
    x width).

    Raises:
        UserError: there is no space of that name.
        ConfigError: the file is malformed.
        StorageError: the file cannot be read.
    """
    name_or_file, size = _split(name_or_file)
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        return build_space(_resized(read_yaml(path), size), path.stem + (f"@{size}" if size else ""), str(path))
    shipped = list_spaces()
    if name_or_file not in shipped:
        close = difflib.get_close_matches(name_or_file, shipped, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(
            f"unknown space {name_or_file!r}{hint}: there are {', '.join(shipped)}, "
            "or give the path of a space file that ends in .yaml"
        )
    path = _DEFINITIONS / f"{name_or_file}.yaml"
    return build_space(_resized(read_yaml(path), size), path.stem + (f"@{size}" if size else ""), str(path))


def _split(name_or_file: str) -> tuple[str, str]:
    """Name or file, and the size behind its last ``@``; folders may have an ``@`` in their names, too."""
    name, _, size = name_or_file.rpartition("@")
    return (name, size) if name and "/" not in size and "." not in size else (name_or_file, "")


def _resized(value: dict[str, Any], size: str) -> dict[str, Any]:
    """A space file's content with another input resolution: ``160`` or ``160x128``; as it is where none is given."""
    if not size:
        return value
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", size)
    if match is None:
        raise UserError(f"unknown resolution {size!r}: write @160, or @160x128 for height x width")
    given = value.get("input")
    pixels = {"height": int(match[1]), "width": int(match[2] or match[1])}
    return {**value, "input": {**(given if isinstance(given, dict) else {}), **pixels}}
