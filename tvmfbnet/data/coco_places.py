"""Data sets in COCO's layout: which image has which boxes, read from its JSON without torch and without any image.

``annotations/instances_NAME.json`` has the boxes of the images in ``NAME`` (or ``images/NAME``), where NAME begins with
``train`` or ``val``: ``train2017``, ``val``. Boxes of crowds are left out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tvmfbnet.errors import DataError

TASKS = ("detection", "multi_label")


@dataclass(frozen=True)
class CocoImage:
    """One image.

    Attributes:
        file: where it lies.
        size: its columns and rows, pixels.
        boxes: class from 1 on, then left, top, right and bottom as shares of the image.
    """

    file: Path
    size: tuple[int, int]
    boxes: tuple[tuple[float, float, float, float, float], ...]


@dataclass(frozen=True)
class CocoPart:
    """The images for training, or those for testing.

    Attributes:
        folder: of the images.
        class_names: in the order of their ids; the first one is class 1.
        images: in the order of the file.
    """

    folder: Path
    class_names: tuple[str, ...]
    images: tuple[CocoImage, ...]


def coco_parts(folder: Path) -> tuple[CocoPart, CocoPart]:
    """The training and the test part.

    Raises:
        DataError: files are missing or malformed, or the parts differ in their classes.
    """
    train, test = (_part(folder, name) for name in ("train", "val"))
    if train.class_names != test.class_names:
        raise DataError(f"{folder}: training and test images have other categories; give both the same ones")
    return train, test


def _part(folder: Path, name: str) -> CocoPart:
    files = sorted((folder / "annotations").glob(f"instances_{name}*.json"))
    if len(files) != 1:
        raise DataError(
            f"{folder / 'annotations'} holds {len(files)} files instances_{name}*.json: coco:DIR needs one for train "
            "and one for val, with the images in DIR beside it"
        )
    path = files[0]
    status = path.stat()
    class_names, images = _read(path, status.st_size, status.st_mtime_ns)
    if not images or not class_names:
        raise DataError(f"{path} names {len(images)} images and {len(class_names)} categories; it needs some of both")
    place = path.stem.removeprefix("instances_")
    places = [folder / place, folder / "images" / place]
    shown = next((each for each in places if each.is_dir()), None)
    if shown is None:
        raise DataError(f"the images of {path} are missing: neither {places[0]} nor {places[1]} is a folder")
    images = tuple(replace(image, file=shown / image.file) for image in images)
    missing = [image.file for image in images if not image.file.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(images)} images of {path} are missing, first {missing[0]}")
    return CocoPart(shown, class_names, images)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, written: int) -> tuple[tuple[str, ...], tuple[CocoImage, ...]]:
    """The names of the classes, and the images by their names alone; read once, as long as the file stays as it is."""
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        told = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise DataError(f"{path} has no boxes in COCO's form ({told}); get it again") from error


def _parsed(content: dict[str, Any]) -> tuple[tuple[str, ...], tuple[CocoImage, ...]]:
    kinds = {kind["id"]: str(kind["name"]) for kind in sorted(content["categories"], key=lambda kind: kind["id"])}
    numbers = {identity: number for number, identity in enumerate(kinds, start=1)}
    sizes = {image["id"]: (int(image["width"]), int(image["height"])) for image in content["images"]}
    boxes = defaultdict[Any, list[tuple[float, float, float, float, float]]](list)
    for item in content["annotations"]:
        left, top, width, height = map(float, item["bbox"])
        across, down = sizes[item["image_id"]]
        if not item.get("iscrowd") and width > 0 and height > 0:
            corners = (left / across, top / down, (left + width) / across, (top + height) / down)
            boxes[item["image_id"]].append((float(numbers[item["category_id"]]), *corners))
    images = tuple(
        CocoImage(Path(str(each["file_name"])), sizes[each["id"]], tuple(boxes[each["id"]]))
        for each in content["images"]
    )
    return tuple(kinds.values()), images
