"""Advice in errors and notes: commands that run as they stand, with every option that they need, quoted for the shell.

What a message is about is rarely all that the advised command needs: who finds no latencies of a target does not know
the space that the user works on. So a command remembers what it was given (:func:`note`), and advice repeats it as
the user spelled it. Where nothing is remembered, as for who imports the package, the space is ``fbnet``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextvars import ContextVar

_DEFAULT_SPACE = "fbnet"
_NOTHING: Mapping[str, str] = {}
# Of the command that runs in this context; main() gives each one a context of its own.
_given: ContextVar[Mapping[str, str]] = ContextVar("given", default=_NOTHING)


def note(**given: object) -> None:
    """Keeps what the user gave to this command, for advice: ``target``, ``space``, ``tuning_logs``, ``package``.

    ``named`` is the name that the target's file gives it, which deeper layers know it by. None is left out.
    """
    _given.set({**_given.get(), **{name: str(value) for name, value in given.items() if value is not None}})


def command(name: str, *arguments: object, **options: object) -> str:
    """A command line in back quotes: ``command("device stop", target="rpi4")`` is `tvmfbnet device stop --target rpi4`.

    Args:
        name: the command's words.
        arguments: what follows as it is.
        options: by name, with ``_`` for ``-``; True is a flag, a list an option that is given several times, and None,
            False and "" leave the option out.
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
    """The command that tunes a target for the space at hand; other options as in :func:`command`."""
    return command("tune", **_target_and_space(target), **options, tuning_logs=_given.get().get("tuning_logs"))


def validate(target: str) -> str:
    """The command that compares sums with whole nets, for the space at hand."""
    return command("latency validate", **_target_and_space(target), tuning_logs=_given.get().get("tuning_logs"))


def bring_table(target: str) -> str:
    """The command that imports a latency table under a target's name; the file's name is the user's to fill in."""
    return command(
        "latency import", "FILE.csv", target=target_as_given(target), tuning_logs=_given.get().get("tuning_logs")
    )


def bench(target_ms: float) -> str:
    """The command that times the package at hand again under its latency target; "" where no package is known."""
    given = _given.get()
    if "package" not in given or "target" not in given:
        return ""
    return command("bench", given["package"], target=given["target"], latency_target=f"{target_ms:.6f}ms")


def tune_more() -> str:
    """The command that tunes the target at hand for longer; "" where target or space are not known."""
    given = _given.get()
    return tune(given["target"], more=True) if {"target", "space"} <= given.keys() else ""


def target_as_given(name: str) -> str:
    """A target as the user spelled it (a name, or a ``.yaml`` file), by the name that its file gives it."""
    given = _given.get()
    return given["target"] if given.get("named") == name and "target" in given else name


def _target_and_space(target: str) -> dict[str, object]:
    return {"target": target_as_given(target), "space": _given.get().get("space", _DEFAULT_SPACE)}
