"""Images with masks on disk: where they lie and how they belong together, without torch and without reading an image.

Two layouts. A folder with ``train/images``, ``train/masks`` and the same under ``val`` (or ``test``), a mask of the
same name for each image, and ``classes.txt``, whose lines name the values of the masks' pixels from 0 on. Or the layout
of the Oxford-IIIT Pet data set: ``images``, ``annotations/trimaps``, and the lists ``annotations/trainval.txt`` and
``test.txt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.data.kinds import IMAGE_SUFFIXES
from tvmfbnet.errors import DataError

IGNORED = 255
_TRIMAPS, _LISTS = "annotations/trimaps", ("annotations/trainval.txt", "annotations/test.txt")
# Of a trimap's pixels: the animal, what is behind it, and the border between, which is neither.
_TRIMAP_CODES = {1: 1, 2: 0, 3: IGNORED}
_LISTED = 5


@dataclass(frozen=True)
class MaskedFiles:
    """The files of a data set with masks.

    Attributes:
        class_names: in order of the classes' indices.
        codes: class of each value of a mask's pixels; others are refused.
        parts: for training and for testing, images and their masks.
    """

    class_names: tuple[str, ...]
    codes: Mapping[int, int]
    parts: tuple[tuple[tuple[Path, Path], ...], tuple[tuple[Path, Path], ...]]


def mask_classes(folder: Path) -> tuple[str, ...]:
    """The names of the classes, background included; DataError where nothing names them."""
    if _is_oxford(folder):
        return ("background", "pet")
    path = folder / "classes.txt"
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is missing or no text: maskfolder:DIR needs the names of the masks' values in it, one per line, "
            "with DIR/train/images, DIR/train/masks and the same under DIR/val"
        ) from error
    if not 2 <= len(names) <= IGNORED:
        raise DataError(f"{path} names {len(names)} classes; name 2 to {IGNORED}, one per line")
    return names


def masked_files(folder: Path) -> MaskedFiles:
    """Finds all images and their masks.

    Raises:
        DataError: folders or masks are missing; names the first of them.
    """
    names = mask_classes(folder)
    if _is_oxford(folder):
        train, test = (_listed(folder, folder / name) for name in _LISTS)
        return MaskedFiles(names, _TRIMAP_CODES, (train, test))
    tested = next((folder / part for part in ("val", "test") if (folder / part).is_dir()), folder / "val")
    codes = {**{number: number for number in range(len(names))}, IGNORED: IGNORED}
    return MaskedFiles(names, codes, (_beside(folder / "train"), _beside(tested)))


def _is_oxford(folder: Path) -> bool:
    return (folder / _TRIMAPS).is_dir()


def _listed(folder: Path, path: Path) -> tuple[tuple[Path, Path], ...]:
    """The images that a list names in the first word of each line; lines that begin with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is missing or no text; get the data set again") from error
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return _pairs([(folder / "images" / f"{name}.jpg", folder / _TRIMAPS / f"{name}.png") for name in names], path)


def _beside(part: Path) -> tuple[tuple[Path, Path], ...]:
    """The images in a part's ``images``, and the masks of the same names in its ``masks``."""
    images, masks = part / "images", part / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise DataError(f"{part} lacks images or masks: maskfolder:DIR needs DIR/train/images and DIR/train/masks")
    files = sorted(
        file for file in images.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    return _pairs([(file, masks / f"{file.stem}.png") for file in files], images)


def _pairs(pairs: list[tuple[Path, Path]], where: Path) -> tuple[tuple[Path, Path], ...]:
    """The pairs as they are; DataError where there are none, or a file is missing."""
    if not pairs:
        raise DataError(f"{where} holds no images")
    missing = [file for pair in pairs for file in pair if not file.is_file()]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise DataError(f"missing: {', '.join(map(str, missing[:_LISTED]))}{more}; every image needs a mask (.png)")
    return tuple(pairs)
