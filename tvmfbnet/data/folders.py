"""A data set of image files, one folder a class: found, counted and checked before the first step.

Cameras, editors and file managers leave things among images. Hidden files and folders (``._x.png``,
``.ipynb_checkpoints``) are skipped. Other files that are no images by name are skipped and counted in a note.
Header and end of every image are looked at, and all unreadable files are named at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch

from tvmfbnet.data.files import fault_of_image
from tvmfbnet.data.images import FolderImages, ImageData
from tvmfbnet.data.places import IMAGE_SUFFIXES, find_test_folder, folder_classes, no_images, visible_files
from tvmfbnet.errors import DataError
from tvmfbnet.files import storage_errors
from tvmfbnet.progress import progress, say

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_THREADS = 4
# So many files are checked in a second or two.
_QUICK = 10_000
# Unreadable files that a message names.
_NAMED = 50


def load_folders(folder: Path, height: int, width: int, channels: int, subset: str | None) -> ImageData:
    """Finds and checks the images under ``folder/train/CLASS`` and ``folder/val/CLASS`` (or ``test``).

    Args:
        folder: the data set.
        height, width, channels: what images are brought to when they are loaded; 1 or 3 channels.
        subset: a number of classes, or a file that names some, one a line; all of them if None.

    Raises:
        DataError: folders are missing or do not hold the same classes, or files are no readable images.
    """
    test_folder = find_test_folder(folder)
    names = folder_classes(folder, channels, subset)
    skipped: Counter[str] = Counter()
    parts = [_images_of(part, names, skipped) for part in (folder / "train", test_folder)]
    if skipped:
        told = ", ".join(f"{count} {suffix or 'without an ending'}" for suffix, count in skipped.most_common(5))
        say(f"note: {sum(skipped.values())} files under {folder} are no images by their names and are skipped: {told}")
    _check([file for files, _ in parts for file in files], folder)
    train, test = (
        FolderImages(files, root, torch.tensor(labels), channels, height, width)
        for root, (files, labels) in zip((folder / "train", test_folder), parts, strict=True)
    )
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return ImageData("imagefolder", len(names), train, test, mean, std)


def _images_of(folder: Path, names: Sequence[str], skipped: Counter[str]) -> tuple[list[Path], list[int]]:
    """The image files of each class, in order, and their labels; counts by suffix what is no image."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        with storage_errors(folder / name, "read"):
            found = sorted(visible_files(folder / name))
        images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
        skipped.update(file.suffix.lower() for file in found if file.suffix.lower() not in IMAGE_SUFFIXES)
        if not images:
            raise no_images(folder / name)
        files += images
        labels += [label] * len(images)
    return files, labels


def _check(files: Sequence[Path], folder: Path) -> None:
    """Reads the header of every file; DataError names all that are no readable images."""
    bad = []
    with ThreadPoolExecutor(_THREADS) as pool, ExitStack() as stack:
        reporter = stack.enter_context(progress("checking images", len(files))) if len(files) > _QUICK else None
        for file, fault in zip(files, pool.map(fault_of_image, files), strict=True):
            if fault:
                bad.append(f"{file.relative_to(folder)} ({fault})")
            if reporter is not None:
                reporter.advance()
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise DataError(
            f"{len(bad)} of {len(files)} files under {folder} are no readable images; remove them or get them again: "
            f"{', '.join(bad[:_NAMED])}{more}"
        )
