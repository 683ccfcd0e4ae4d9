"""The shipped settings of trainings, by name; users pass files of their own by path. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from tvmfbnet.shipped import Shipped

_SHIPPED = Shipped("training recipe", (Path(__file__).parent / "recipes",))


def list_training_recipes() -> list[str]:
    """Names of the shipped ones."""
    return _SHIPPED.names()


def training_recipe(name_or_file: str) -> Path:
    """The file of a shipped name; a path of an existing file, or one that ends in ``.yaml``, stands for itself.

    Raises:
        UserError: unknown name; lists the known ones.
    """
    path = Path(name_or_file)
    return path if path.is_file() else _SHIPPED.path(name_or_file)
