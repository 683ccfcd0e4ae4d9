"""The options of cluttered Fashion-MNIST, parsed from its spec without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tvmfbnet.errors import DataError

OBJECT_SIDE = 28
_MOST_IMAGES, _MOST_VIEWS = 1_000_000, 100


@dataclass(frozen=True)
class ClutterOptions:
    """What is random in the images, and by how much.

    Args:
        images: training images; the test set always shows every one of Fashion-MNIST's test images.
        pieces: pieces of other objects, of 10x10 pixels, in each image.
        smallest, largest: an object's side, as a share of the image's shorter side.
        turn: largest rotation, degrees, either way.
        seed: of all of it.
        views: how often the test set shows each of its objects, every time at another place and among other pieces.
    """

    images: int = 20_000
    pieces: int = 8
    smallest: float = 0.3
    largest: float = 0.7
    turn: float = 30.0
    seed: int = 0
    views: int = 1

    @classmethod
    def of(cls, texts: Mapping[str, str], spec: str) -> ClutterOptions:
        """Parses the options that follow a spec's ``?``; DataError names the first that is wrong."""
        types = {field.name: float if field.type == "float" else int for field in fields(cls)}
        values: dict[str, float] = {}
        for name, text in texts.items():
            if name not in types:
                raise DataError(f"data set {spec}: there is no option {name!r}; there are {', '.join(types)}")
            try:
                values[name] = types[name](text)
            except ValueError as error:
                raise DataError(f"data set {spec}: {name}={text} is not a number") from error
        options = cls(**values)  # type: ignore[arg-type]
        options._require_sensible(spec)
        return options

    def _require_sensible(self, spec: str) -> None:
        bounds = {
            "images": (10, _MOST_IMAGES),
            "views": (1, _MOST_VIEWS),
            "pieces": (0, 100),
            "smallest": (0.1, 1.0),
            "largest": (0.1, 1.0),
            "turn": (0.0, 180.0),
            "seed": (0, 2**31),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:  # NaN is refused as well
                raise DataError(f"data set {spec}: {name} must lie in {low:g} to {high:g}")
        if self.smallest > self.largest:
            raise DataError(f"data set {spec}: smallest ({self.smallest:g}) is above largest ({self.largest:g})")

    def describe(self) -> str:
        """All options in one line: two data sets with the same line and originals are the same.

        A single view is not named, so that the line is that of data sets from before there were several.
        """
        unnamed = {"views"} if self.views == 1 else set()
        return "&".join(
            f"{field.name}={getattr(self, field.name)}" for field in fields(self) if field.name not in unnamed
        )
