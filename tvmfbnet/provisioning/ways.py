"""Saves how `device push` or `device start` last connected to a target's device, so that advice can be complete.

A target names its tracker, but not how to connect to its device: over SSH with which options, or over adb. The options
of the last command are kept in the cache. Without any, advice contains a placeholder in capitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvmfbnet import advice
from tvmfbnet.errors import UserError
from tvmfbnet.files import read_model, write_json
from tvmfbnet.targets.definition import Target
from tvmfbnet.tools import cache_folder


def save_connection(target: Target, words: Sequence[str]) -> None:
    """Saves the options that connect to a target's device: ``["--ssh", "pi@raspberrypi"]``."""
    write_json(_file(target), list(words))


def device_command(action: str, target: Target) -> str:
    """The command in back quotes that does ``action`` (start, push, stop, logs) on a target's device."""
    if target.transport.kind == "local":
        return advice.command(f"device {action}", target=advice.target_as_given(target.name))
    try:
        words = read_model(_file(target), list[str])
    except UserError:  # never connected from here, or the file is damaged; nothing depends on it
        words = ["--adb"] if "android" in target.triple else ["--ssh", "USER@HOST"]
    return advice.command(f"device {action}", *words, target=advice.target_as_given(target.name))


def _file(target: Target) -> Path:
    return cache_folder() / "ways" / f"{target.name}.json"
