"""Finds search spaces: those shipped with the package by name, a user's own by file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tvmfbnet.errors import UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.shipped import Shipped
from tvmfbnet.space.block_files import load_block_files
from tvmfbnet.space.heads import HEADS
from tvmfbnet.space.schema import build_space
from tvmfbnet.space.space import Space

_SHIPPED = Shipped("space", (Path(__file__).parent / "definitions",))


def list_spaces() -> list[str]:
    """Names of the shipped spaces."""
    return _SHIPPED.names()


def load_space(name_or_file: str) -> Space:
    """Reads a shipped space by name, or a space file by path (it ends in ``.yaml`` or ``.yml``).

    A suffix changes it: ``@`` and a size the input resolution (``fbnet@160``, ``fbnet@160x128`` for
    height x width), then ``,classes=3`` and ``,channels=1`` the number of classes and of the image's channels, and
    ``,head=lraspp`` the head.

    Python files that it names in ``block_files`` are run.

    Raises:
        UserError: there is no space of that name, or a file of blocks fails.
        ConfigError: the file is malformed.
        StorageError: the file cannot be read.
    """
    name_or_file, changes, suffix = _split(name_or_file)
    path = _SHIPPED.path(name_or_file)
    value = read_yaml(path)
    files = value.get("block_files")
    if isinstance(files, list) and all(isinstance(file, str) for file in files):  # else refused with all other problems
        load_block_files(files, path.parent)
    return build_space(_changed(value, changes), path.stem + suffix, str(path))


def spelled_with_classes(name_or_file: str, classes: int) -> str:
    """The name of the same space with another number of classes: ``fbnet@64`` and 3 give ``fbnet@64,classes=3``."""
    if load_space(name_or_file).classes == classes:
        return name_or_file
    return f"{re.sub(r',classes=[0-9]+(?=$|,channels=|,head=)', '', name_or_file)},classes={classes}"


def spelled_with_head(name_or_file: str, kind: str) -> str:
    """The name of the same space with another head: ``fbnet@64`` and ``lraspp`` give ``fbnet@64,head=lraspp``."""
    if load_space(name_or_file).head_kind == kind:
        return name_or_file
    return f"{re.sub(r',head=[a-z]+(?=$|,)', '', name_or_file)},head={kind}"


def spelled_like(name_or_file: str, space: Space) -> str:
    """The name of a space with the classes and the head of another one."""
    return spelled_with_head(spelled_with_classes(name_or_file, space.classes), space.head_kind)


_CHANGES = {"classes": r"[0-9]{1,7}", "channels": r"[0-9]{1,7}", "head": "|".join(HEADS)}


def _split(text: str) -> tuple[str, dict[str, int | str], str]:
    """Name or file, the changes (``height``, ``width``, ``classes``, ``channels``, ``head``), and their text.

    Names of folders may contain ``@`` and commas, too.
    """
    whole, changes = text, dict[str, int | str]()
    while True:
        before, comma, change = text.rpartition(",")
        name, _, given = change.partition("=")
        if not comma or name not in _CHANGES:
            break
        if not re.fullmatch(_CHANGES[name], given) or name in changes:
            raise UserError(f"unknown change {change!r} of a space: write it once, as in fbnet@64,classes=3,channels=1")
        text, changes[name] = before, given if name == "head" else int(given)
    name, _, size = text.rpartition("@")
    if name and "/" not in size and "." not in size:
        match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", size)
        if match is None:
            raise UserError(f"unknown resolution {size!r}: write @160, or @160x128 for height x width")
        text, changes = name, {**changes, "height": int(match[1]), "width": int(match[2] or match[1])}
    return text, changes, whole.removeprefix(text)


def _changed(value: dict[str, Any], changes: dict[str, int | str]) -> dict[str, Any]:
    """A space file's content with another resolution, head, number of classes or of channels."""
    outer = {name: given for name, given in changes.items() if name in ("classes", "head")}
    image = {name: number for name, number in changes.items() if name not in outer}
    if image:
        given = value.get("input")
        value = {**value, "input": {**(given if isinstance(given, dict) else {}), **image}}
    return {**value, **outer}
