"""Locates a data set's files and checks them against its spec: quick, without torch.

:func:`check_data` looks at names only: files, folders, classes. Loading checks their content
(:mod:`tvmfbnet.data.datasets`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.data.clutter_options import OBJECT_SIDE, ClutterOptions
from tvmfbnet.data.coco_places import TASKS, coco_parts
from tvmfbnet.data.generated_options import GeneratedOptions
from tvmfbnet.data.kinds import IMAGE_SUFFIXES, KINDS, SPECS
from tvmfbnet.data.mask_places import mask_classes, masked_files
from tvmfbnet.data.scene_options import SceneOptions
from tvmfbnet.errors import DataError
from tvmfbnet.files import storage_errors

SYSTEM_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # Debian package dataset-fashion-mnist
# Of the data sets with files of their own: channels.
_CHANNELS = {"fashion_mnist": 1, "cluttered_fashion_mnist": 1, "fashion_scenes": 1, "cifar10": 3}
# What must lie in a folder of own images.
_NEEDED = {
    "imagefolder": "DIR/train/CLASS/*.jpg and DIR/val beside it",
    "coco": "DIR/annotations/instances_train*.json, instances_val*.json and the images in folders beside it",
    "maskfolder": "DIR/classes.txt, DIR/train/images, DIR/train/masks and the same under DIR/val",
}
# Made of Fashion-MNIST's objects, at any size from theirs on; their specs have options.
_MADE = ("cluttered_fashion_mnist", "fashion_scenes")
_CIFAR_SIDE = 32


@dataclass(frozen=True)
class DataSpec:
    """A parsed data set spec, as the user writes it.

    Attributes:
        text: the whole spec.
        kind: one of :data:`tvmfbnet.data.kinds.KINDS`.
        folder: None if the spec names none.
        options: what follows the ``?``, by name: an image folder takes ``classes``; those of others are parsed by
            ``ClutterOptions``, ``SceneOptions`` and ``GeneratedOptions`` of this package.
    """

    text: str
    kind: str
    folder: Path | None
    options: Mapping[str, str]

    @property
    def subset(self) -> str | None:
        """The subset of an image folder's classes that is asked for: a number or a file; None for all of them."""
        return self.options.get("classes") if self.kind == "imagefolder" else None

    @classmethod
    def of(cls, text: str) -> DataSpec:
        """Parses a spec.

        Raises:
            DataError: an unknown kind, an image folder without a folder, or options that this kind does not have.
        """
        kind, _, behind = text.partition("?")[0].partition(":")
        if kind not in KINDS:
            raise DataError(f"unknown data set {text!r}: use {SPECS}")
        behind = text[len(kind) + 1 :] if text[len(kind) :].startswith(":") else text[len(kind) :]
        place, options = _place_and_options(behind, text, kind)
        if kind in _NEEDED and not place:
            raise DataError(f"{kind} needs a folder: {kind}:DIR, with {_NEEDED[kind]}")
        return cls(text, kind, Path(place).expanduser() if place else None, options)

    @property
    def images(self) -> Path:
        """The folder of an image folder's spec; DataError if it names none."""
        if self.folder is None:
            raise DataError(f"data set {self.text} names no folder")
        return self.folder


def _place_and_options(behind: str, text: str, kind: str) -> tuple[str, dict[str, str]]:
    """Parses ``DIR?name=value&name=value``; the file that ``classes`` names may hold any character."""
    place, asked, tail = behind.partition("?classes=")
    if asked and kind != "generated":
        if kind != "imagefolder":
            raise DataError(f"data set {text}: only an imagefolder takes a subset of its classes")
        return place, {"classes": tail}
    if kind == "generated" and behind[:1] not in ("", "?"):
        raise DataError(f"data set {text}: generated images lie in no folder")
    if kind not in (*_MADE, "coco", "generated"):
        if behind.startswith("?"):
            raise DataError(f"data set {text}: {kind} takes no options")
        return place, {}
    place, _, tail = behind.partition("?")
    pairs = [pair.partition("=") for pair in tail.split("&") if pair]
    return place, {name: value for name, _, value in pairs}


def check_data(text: str, height: int, width: int, channels: int, classes: int | None = None) -> None:
    """Refuses a data set that is missing or cannot fit a space, without reading any image.

    Args:
        text: see :func:`tvmfbnet.data.datasets.load_data`.
        height, width, channels: what the space takes.
        classes: what the space's classifier gives.

    Raises:
        DataError: says what is missing or does not fit.
    """
    spec = DataSpec.of(text)
    if spec.kind == "generated":
        class_count = _own_classes(spec)
    elif spec.kind == "coco":
        require_grey_or_colour(spec.kind, channels)
        class_count = _own_classes(spec)
    elif spec.kind == "maskfolder":
        require_grey_or_colour(spec.kind, channels)
        class_count = len(masked_files(spec.images).class_names)
    elif spec.kind == "imagefolder":
        names = folder_classes(spec.images, channels, spec.subset)
        _require_images(spec.images, names)
        class_count = len(names)
    else:
        if spec.kind == "cifar10":
            find_cifar10(spec.folder)
        else:
            find_fashion_mnist(spec.folder)
        class_count = _own_classes(spec)
        require_shape(spec.kind, height, width, channels)
    require_classes(spec, class_count, classes)


def _own_classes(spec: DataSpec) -> int:
    """The number of classes of a data set that is no image folder; DataError where its options are wrong."""
    if spec.kind == "generated":
        return GeneratedOptions.of(spec.options, spec.text).classes
    if spec.kind == "fashion_scenes":
        return SceneOptions.of(spec.options, spec.text).outputs
    if spec.kind == "coco":
        return len(coco_parts(spec.images)[0].class_names) + (coco_task(spec) == "detection")
    if spec.kind == "maskfolder":
        return len(mask_classes(spec.images))
    ClutterOptions.of(spec.options, spec.text)
    return 10


def require_shape(kind: str, height: int, width: int, channels: int) -> None:
    """DataError if the images of Fashion-MNIST or CIFAR-10 do not fit a space."""
    own_channels = _CHANNELS[kind]
    if channels != own_channels:
        what = "is grey (1 channel)" if own_channels == 1 else f"has {own_channels} channels"
        raise DataError(f"{kind} {what} but the space takes {channels}; append `,channels={own_channels}` to the space")
    if kind in _MADE and min(height, width) < OBJECT_SIDE:
        raise DataError(
            f"{kind} needs an input of at least {OBJECT_SIDE}x{OBJECT_SIDE}, the space's is "
            f"{height}x{width}; append `@64` to the space"
        )
    # IDX files say the size of their images themselves, and own ones may be of any.
    if kind == "cifar10" and min(height, width) < _CIFAR_SIDE:
        raise DataError(
            f"cifar10 images are {_CIFAR_SIDE}x{_CIFAR_SIDE}, larger than the space's input {height}x{width}; "
            f"append `@{_CIFAR_SIDE}` to the space"
        )


def require_classes(spec: DataSpec, class_count: int, wanted: int | None) -> None:
    """DataError if data set and space differ in the number of classes; a subset may have fewer."""
    if wanted is not None and class_count != wanted and not (spec.subset is not None and class_count < wanted):
        raise DataError(
            f"data set {spec.text} has {class_count} classes but the space classifies {wanted}: "
            f"append `,classes={class_count}` to the space"
        )


def classes_of(text: str) -> int | None:
    """The number of classes of a data set, before any image is read; None for a subset.

    Raises:
        DataError: unknown spec, or a folder that is missing.
    """
    spec = DataSpec.of(text)
    if spec.kind != "imagefolder":
        return _own_classes(spec)
    return None if spec.subset is not None else len(class_names(spec.images / "train"))


def task_of(text: str) -> str:
    """The task that a data set's targets are for; DataError for an unknown spec or wrong options."""
    spec = DataSpec.of(text)
    if spec.kind == "coco":
        return coco_task(spec)
    if spec.kind == "maskfolder":
        return "segmentation"
    return SceneOptions.of(spec.options, text).task if spec.kind == "fashion_scenes" else "classification"


def with_task(text: str, task: str | None) -> str:
    """The spec of a data set whose targets are for a task; as it is for None.

    Raises:
        DataError: unknown spec, or it has no targets for that task, or says another one itself.
    """
    if task is None:
        return text
    spec = DataSpec.of(text)
    if spec.kind in ("coco", "fashion_scenes") and "task" not in spec.options:
        text = f"{text}{'&' if spec.options else '?'}task={task}"
    if task_of(text) != task:
        raise DataError(f"the targets of data set {text} are for {task_of(text)}, not for {task}")
    return text


def coco_task(spec: DataSpec) -> str:
    """What the boxes of a data set in COCO's layout are for; DataError for another option or task."""
    task = spec.options.get("task", TASKS[0])
    if set(spec.options) - {"task"} or task not in TASKS:
        raise DataError(f"data set {spec.text}: its only option is task, {' or '.join(TASKS)}")
    return task


def relocated(spec: str, place: str) -> str:
    """The spec of a data set that has moved.

    Args:
        spec: the old spec.
        place: the new spec, or the new folder alone; kind and subset of the classes are then those of ``spec``.
    """
    if place.partition(":")[0] in KINDS:
        return place
    kind = DataSpec.of(spec).kind
    options = "&".join(f"{name}={value}" for name, value in DataSpec.of(spec).options.items())
    return f"{kind}:{place}?{options}" if options else f"{kind}:{place}"


def _search_places(folder: Path | None, subfolder: str, system: str | None = None) -> list[Path]:
    """The folders to search for a data set, in order; an explicit folder is the only one."""
    if folder is not None:
        return [folder]
    places = [Path("datasets") / subfolder]
    if "TVMFBNET_DATA" in os.environ:
        places.insert(0, Path(os.environ["TVMFBNET_DATA"]) / subfolder)
    return places + ([Path(system)] if system else [])


def find_fashion_mnist(folder: Path | None) -> dict[str, Path]:
    """The four files by the beginnings of their names; DataError if one is missing."""
    places = _search_places(folder, "fashion-mnist", SYSTEM_FASHION_MNIST)
    places += [place / "FashionMNIST" / "raw" for place in ([folder] if folder else [p.parent for p in places])]
    files_by_name = {}
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        files = [
            p / f"{name}-ubyte{end}" for p in places for end in (".gz", "") if (p / f"{name}-ubyte{end}").is_file()
        ]
        if not files:
            raise DataError(
                f"Fashion-MNIST is missing ({name}-ubyte.gz not in {', '.join(map(str, places))}): "
                "apt install dataset-fashion-mnist, or put the four .gz files in a folder DIR and say fashion_mnist:DIR"
            )
        files_by_name[name] = files[0]
    return files_by_name


def find_cifar10(folder: Path | None) -> Path:
    """The folder with all six batches; DataError if one is missing."""
    places = _search_places(folder, "cifar10")
    places += [place / "cifar-10-batches-bin" for place in places]
    home = next((place for place in places if (place / "data_batch_1.bin").is_file()), None)
    if home is None:
        raise DataError(
            f"CIFAR-10 is missing (data_batch_1.bin not in {', '.join(map(str, places))}): unpack "
            "cifar-10-binary.tar.gz in a folder DIR and say cifar10:DIR"
        )
    for name in (*(f"data_batch_{number}.bin" for number in range(2, 6)), "test_batch.bin"):
        if not (home / name).is_file():
            raise DataError(f"{home} lacks {name}: unpack cifar-10-binary.tar.gz there again")
    return home


def find_test_folder(folder: Path) -> Path:
    """The folder of an image folder's test images: ``val``, else ``test``; need not exist."""
    return next((folder / part for part in ("val", "test") if (folder / part).is_dir()), folder / "val")


def require_grey_or_colour(kind: str, channels: int) -> None:
    """DataError where a space takes other images than files give."""
    if channels not in (1, 3):
        raise DataError(
            f"{kind} gives 1 or 3 channels but the space takes {channels}; append `,channels=3` to the space"
        )


def folder_classes(folder: Path, channels: int, subset: str | None) -> list[str]:
    """The classes of an image folder, in order.

    Args:
        folder: the data set, with ``train`` and ``val`` (or ``test``).
        channels: of the images that are asked for: 1 or 3.
        subset: a number of classes, or a file that names them, one per line; all of them if None.

    Raises:
        DataError: folders are missing or do not hold the same classes, or there is no such subset.
    """
    require_grey_or_colour("imagefolder", channels)
    names, test_folder = class_names(folder / "train"), find_test_folder(folder)
    different = sorted(set(names) ^ set(class_names(test_folder)))
    if different:
        raise DataError(
            f"{test_folder} does not hold the same classes as {folder / 'train'}: "
            f"{', '.join(different[:5])}{' ...' if len(different) > 5 else ''} only in one of them"
        )
    return names if subset is None else _subset(names, subset)


def _require_images(folder: Path, names: list[str]) -> None:
    """DataError if a class folder has no file with an image suffix; stops at the first one."""
    for part in (folder / "train", find_test_folder(folder)):
        for name in names:
            with storage_errors(part / name, "read"):
                if not any(file.suffix.lower() in IMAGE_SUFFIXES for file in visible_files(part / name)):
                    raise no_images(part / name)


def no_images(folder: Path) -> DataError:
    """The error of a class folder without images."""
    return DataError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")


def class_names(folder: Path) -> list[str]:
    """The class folders in a folder, in order, without hidden ones; DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"data folder {folder} is missing: imagefolder:DIR needs DIR/train/CLASS/*.jpg and DIR/val")
    with storage_errors(folder, "read"):
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry))
    if not names:
        raise DataError(f"{folder} holds no class folders")
    return names


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"


def _subset(names: list[str], subset: str) -> list[str]:
    """A subset of the class names: a number of them, or those that a file lists; DataError for unknown ones."""
    if subset.isascii() and subset.isdecimal():
        if not 2 <= int(subset) <= len(names):
            raise DataError(f"?classes={subset}: there are {len(names)} classes; take 2 to {len(names)} of them")
        return sorted(random.Random(0).sample(names, int(subset)))
    wanted = set(_lines(Path(subset).expanduser(), subset))
    unknown = sorted(wanted - set(names))
    if unknown or len(wanted) < 2:
        raise DataError(
            f"{subset} names {len(wanted)} classes, of which {len(unknown)} are not in the data"
            + (f" (first {unknown[0]!r})" if unknown else "; name at least 2")
        )
    return sorted(wanted)


def _lines(path: Path, subset: str) -> Iterator[str]:
    """The lines of a file of class names; names may contain blanks, and the file may begin with a byte order mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"?classes={subset} is neither a number nor a readable file of class names") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"?classes={subset}: the file is not UTF-8 text; save it as UTF-8, one class name per line"
        ) from error
    return (line.strip() for line in text.splitlines() if line.strip())


def visible_files(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders; links to folders are not followed, for they might form a cycle."""
    for entry in folder.iterdir():
        if _is_hidden(entry):
            continue
        if not entry.is_dir():
            yield entry
        elif not entry.is_symlink():
            yield from visible_files(entry)
