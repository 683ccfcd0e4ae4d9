"""The options of cluttered Fashion-MNIST, parsed from its spec without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tvmfbnet.data.option_texts import numbers_of, require_object_options

OBJECT_SIDE = 28
_BOUNDS = {
    "images": (10, 1_000_000),
    "views": (1, 100),
    "pieces": (0, 100),
    "smallest": (0.1, 1.0),
    "largest": (0.1, 1.0),
    "turn": (0.0, 180.0),
    "seed": (0, 2**31),
}


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
        options = cls(**numbers_of(cls, texts, spec))
        require_object_options(options, _BOUNDS, spec)
        return options

    def describe(self) -> str:
        """All options in one line: two data sets with the same line and originals are the same.

        A single view is not named, so that the line is that of data sets from before there were several.
        """
        unnamed = {"views"} if self.views == 1 else set()
        return "&".join(
            f"{field.name}={getattr(self, field.name)}" for field in fields(self) if field.name not in unnamed
        )
