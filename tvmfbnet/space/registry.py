"""Finds search spaces: those shipped with the package by name, a user's own by file."""

from __future__ import annotations

import difflib
from pathlib import Path

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

    Raises:
        UserError: there is no space of that name.
        ConfigError: the file is malformed.
        StorageError: the file cannot be read.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        return build_space(read_yaml(path), path.stem, str(path))
    shipped = list_spaces()
    if name_or_file not in shipped:
        close = difflib.get_close_matches(name_or_file, shipped, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(
            f"unknown space {name_or_file!r}{hint}: there are {', '.join(shipped)}, "
            "or give the path of a space file that ends in .yaml"
        )
    path = _DEFINITIONS / f"{name_or_file}.yaml"
    return build_space(read_yaml(path), path.stem, str(path))
