"""Advice in errors and notes: complete commands to copy and paste, with every option they need, quoted for the shell.

The code that raises an error rarely knows every option of the command it advises: code that finds no latencies for a
target does not know the user's space. So each command notes what it was given (:func:`note`), and advice repeats it as
the user spelled it. With nothing noted, as when the package is imported as a library, the space is ``fbnet``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_DEFAULT_SPACE = "fbnet"
_NOTHING: Mapping[str, str] = {}
# The words of the current command; main() runs each command in a context of its own.
_given: ContextVar[Mapping[str, str]] = ContextVar("given", default=_NOTHING)


def note(**given: object) -> None:
    """Notes what the user gave this command, for later advice: ``target``, ``space``, ``tuning_logs``, ``package``.

    ``named`` is the name in the target's file, which deeper layers use. None values are ignored.
    """
    _given.set({**_given.get(), **{name: str(value) for name, value in given.items() if value is not None}})


@contextmanager
def noted(**given: object) -> Iterator[None]:
    """Notes as :func:`note` does for the block alone; what is noted within it is forgotten as well."""
    token = _given.set(_given.get())
    try:
        note(**given)
        yield
    finally:
        _given.reset(token)


def command(name: str, *arguments: object, **options: object) -> str:
    """A command line in back quotes: ``command("device stop", target="rpi4")`` is `tvmfbnet device stop --target rpi4`.

    Args:
        name: the command's words.
        arguments: positional arguments.
        options: by name, with ``_`` for ``-``; True makes a flag, a list repeats the option, and None, False and ""
            omit it.
    """
    words = ["tvmfbnet", *name.split(), *map(str, arguments)]
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif isinstance(value, list | tuple):
            words += [word for item in value for word in (flag, str(item))]
        elif value not in (None, False, ""):
            words += [flag, str(value)]
    return f"`{shlex.join(words)}`"


def tune(target: str, **options: object) -> str:
    """The command that tunes a target for the current space; other options as in :func:`command`.

    A ``dtype`` is left out where the user spelled the target with it.
    """
    if ",dtype=" in target_as_given(target):
        options.pop("dtype", None)
    return command("tune", **_target_and_space(target), **options, tuning_logs=_given.get().get("tuning_logs"))


def validate(target: str) -> str:
    """The command that validates table sums against whole nets, for the current space."""
    return command("latency validate", **_target_and_space(target), tuning_logs=_given.get().get("tuning_logs"))


def bring_table(target: str) -> str:
    """The command that imports a latency table under a target's name; the user fills in the file name."""
    return command(
        "latency import", "FILE.csv", target=target_as_given(target), tuning_logs=_given.get().get("tuning_logs")
    )


def bench(target_ms: float) -> str:
    """The command that times the current package again against its latency target; "" without a noted package."""
    given = _given.get()
    if "package" not in given or "target" not in given:
        return ""
    return command("bench", given["package"], target=given["target"], latency_target=f"{target_ms:.6f}ms")


def tune_more() -> str:
    """The command that tunes the current target for longer; "" without a noted target and space."""
    given = _given.get()
    return tune(given["target"], more=True) if {"target", "space"} <= given.keys() else ""


def target_as_given(name: str) -> str:
    """A target as the user spelled it (a name or a ``.yaml`` file), given the name in its file."""
    given = _given.get()
    return given["target"] if given.get("named") == name and "target" in given else name


def _target_and_space(target: str) -> dict[str, object]:
    return {"target": target_as_given(target), "space": _given.get().get("space", _DEFAULT_SPACE)}
