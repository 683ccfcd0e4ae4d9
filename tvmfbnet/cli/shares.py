"""Shares on the command line: ``20%`` or ``0.2``."""

from __future__ import annotations

import re

import typer


def parse_share(text: str) -> float:
    """A share above 0 and up to 1, written ``40%`` or ``0.4``; BadParameter otherwise."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(%?)", str(text).strip())
    share = float(match[1]) / (100.0 if match[2] else 1.0) if match else 0.0
    if not 0.0 < share <= 1.0:
        raise typer.BadParameter(f"{str(text)[:40]!r} is no share; write 40% or 0.4")
    return share
