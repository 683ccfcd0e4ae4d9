"""The options that follow a spec's ``?``, read as numbers into the fields of a dataclass, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tvmfbnet.errors import DataError


def numbers_of(options: type[Any], texts: Mapping[str, str], spec: str, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """The numbers among the options.

    Args:
        options: the dataclass; its fields are ``int`` or ``float``, but for ``words``.
        texts: by name, as written.
        spec: of the data set, for messages.
        words: names of options that are no numbers, which are left to the caller.

    Raises:
        DataError: names the first that is unknown or no number.
    """
    types = {each.name: float if each.type == "float" else int for each in fields(options) if each.name not in words}
    values = {}
    for name, text in texts.items():
        if name in words:
            continue
        if name not in types:
            raise DataError(f"data set {spec}: there is no option {name!r}; there are {', '.join([*words, *types])}")
        try:
            values[name] = types[name](text)
        except ValueError as error:
            raise DataError(f"data set {spec}: {name}={text} is not a number") from error
    return values


def require_object_options(options: Any, bounds: Mapping[str, tuple[float, float]], spec: str) -> None:
    """DataError where a value is out of its bounds, or the smallest object larger than the largest."""
    for name, (low, high) in bounds.items():
        if not low <= getattr(options, name) <= high:  # NaN is refused as well
            raise DataError(f"data set {spec}: {name} must lie in {low:g} to {high:g}")
    if options.smallest > options.largest:
        raise DataError(f"data set {spec}: smallest ({options.smallest:g}) is above largest ({options.largest:g})")
