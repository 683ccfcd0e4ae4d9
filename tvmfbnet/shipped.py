"""Files that ship with the package, requested by name (spaces, targets, recipes); users pass their own by path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.errors import UserError

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Shipped:
    """One kind of shipped files.

    Args:
        kind: its name in messages.
        folders: searched in order.
    """

    kind: str
    folders: Sequence[Path]

    def names(self) -> list[str]:
        """All names in the folders, sorted."""
        return sorted({file.stem for folder in self.folders for file in folder.glob("*.yaml")})

    def path(self, name_or_file: str) -> Path:
        """The file of a name; a path that ends in ``.yaml`` or ``.yml`` stands for itself.

        Raises:
            UserError: unknown name; lists the known ones.
        """
        if is_file_name(name_or_file):
            return Path(name_or_file)
        for folder in self.folders:
            path = folder / f"{name_or_file}.yaml"
            if os.path.isfile(path):  # noqa: PTH113 - False for a name too long for a file
                return path
        names = self.names()
        close = difflib.get_close_matches(name_or_file, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        there = f"{hint}there are {', '.join(names)}; a path to a .yaml file works too"
        raise UserError(f"unknown {self.kind} {name_or_file!r}: {there}")


def is_file_name(name_or_file: str) -> bool:
    """Whether this is a file path, not a name."""
    return name_or_file.endswith(_SUFFIXES)
