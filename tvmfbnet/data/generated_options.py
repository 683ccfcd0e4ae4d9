"""The options of generated images, parsed from their spec without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tvmfbnet.errors import DataError

_BOUNDS = {"images": (10, 10_000_000), "classes": (2, 100_000), "seed": (0, 2**31)}


@dataclass(frozen=True)
class GeneratedOptions:
    """What to generate.

    Args:
        images: training images.
        classes: of the labels, evenly.
        seed: of the noise.
    """

    images: int = 10_000
    classes: int = 10
    seed: int = 0

    @classmethod
    def of(cls, texts: Mapping[str, str], spec: str) -> GeneratedOptions:
        """Parses the options that follow a spec's ``?``; DataError names the first that is wrong."""
        values: dict[str, int] = {}
        for name, text in texts.items():
            if name not in _BOUNDS:
                raise DataError(f"data set {spec}: there is no option {name!r}; there are {', '.join(_BOUNDS)}")
            low, high = _BOUNDS[name]
            if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
                raise DataError(f"data set {spec}: {name} must be a whole number, {low:,} to {high:,}")
            values[name] = int(text)
        options = cls(**values)
        if options.images < options.classes:
            raise DataError(f"data set {spec}: fewer images ({options.images}) than classes ({options.classes})")
        return options

    def describe(self) -> str:
        """All options in one line."""
        return "&".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
