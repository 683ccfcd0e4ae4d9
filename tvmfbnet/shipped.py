"""What ships with the package and is asked for by name (spaces, targets, recipes), or by file where it is one's own."""

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
    """One kind of such files.

    Args:
        kind: what one is called in messages.
        folders: where they lie; the first folder that has a name counts.
    """

    kind: str
    folders: Sequence[Path]

    def names(self) -> list[str]:
        """Of all in the folders, sorted."""
        return sorted({file.stem for folder in self.folders for file in folder.glob("*.yaml")})

    def path(self, name_or_file: str) -> Path:
        """The file that a name stands for; a path that ends in ``.yaml`` or ``.yml`` stands for itself.

        Raises:
            UserError: no such name; says which there are.
        """
        if is_file_name(name_or_file):
            return Path(name_or_file)
        for folder in self.folders:
            path = folder / f"{name_or_file}.yaml"
            if os.path.isfile(path):  # noqa: PTH113 - False for a name too long for a file
                return path
        known = self.names()
        close = difflib.get_close_matches(name_or_file, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        there = f"{hint}there are {', '.join(known)}; a path to a .yaml file works too"
        raise UserError(f"unknown {self.kind} {name_or_file!r}: {there}")


def is_file_name(name_or_file: str) -> bool:
    """Whether a file is meant, not a name."""
    return name_or_file.endswith(_SUFFIXES)
