"""The options of scenes of Fashion-MNIST objects, parsed from their spec without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tvmfbnet.data.option_texts import numbers_of, require_object_options
from tvmfbnet.errors import DataError

# By task: how many outputs its targets ask of a net.
# Of masks and boxes, the background is a class of its own.
OUTPUTS = {"classification": 10, "multi_label": 10, "regression": 3, "segmentation": 11, "detection": 11}
# Tasks whose targets are of one object.
_OF_ONE = ("classification", "regression")
_BOUNDS = {
    "images": (10, 200_000),
    "objects": (1, 8),
    "smallest": (0.1, 1.0),
    "largest": (0.1, 1.0),
    "turn": (0.0, 180.0),
    "seed": (0, 2**31),
}


@dataclass(frozen=True)
class SceneOptions:
    """What is random in the scenes, and what their targets tell.

    Args:
        task: what the targets are for.
        images: training images; the test set has a fifth as many.
        objects: most objects in an image; some have fewer. 1 where a task's targets are of one object.
        smallest, largest: an object's side, as a share of the image's shorter side.
        turn: largest rotation, degrees, either way.
        seed: of all of it.
    """

    task: str = "multi_label"
    images: int = 5_000
    objects: int = 3
    smallest: float = 0.3
    largest: float = 0.5
    turn: float = 30.0
    seed: int = 0

    @classmethod
    def of(cls, texts: Mapping[str, str], spec: str) -> SceneOptions:
        """Parses the options that follow a spec's ``?``; DataError names the first that is wrong."""
        task = texts.get("task", cls.task)
        if task not in OUTPUTS:
            raise DataError(f"data set {spec}: there is no task {task!r}; there are {', '.join(OUTPUTS)}")
        values: dict[str, Any] = {"objects": 1} if task in _OF_ONE else {}
        values |= numbers_of(cls, texts, spec, words=("task",))
        options = cls(task=task, **values)
        options._require_sensible(spec)
        return options

    def _require_sensible(self, spec: str) -> None:
        require_object_options(self, _BOUNDS, spec)
        if self.task in _OF_ONE and self.objects > 1:
            raise DataError(f"data set {spec}: targets of {self.task} are of one object; leave objects out")

    @property
    def outputs(self) -> int:
        """Outputs that the targets ask of a net."""
        return OUTPUTS[self.task]

    def describe(self) -> str:
        """All options in one line: two data sets with the same line and originals are the same."""
        return "&".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
