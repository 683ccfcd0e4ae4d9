"""A data set of image files, one folder per class: listed, counted and checked before the first step.

Cameras, editors and file managers leave things among images. Hidden files and folders (``._x.png``,
``.ipynb_checkpoints``) are skipped. Other files that are no images by name are skipped and counted in a note.
Header and end of every image are looked at, and all unreadable files are named at once. A run opens its data set again
and again: as long as no file was written in between, files are looked at once a process.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from tvmfbnet.data.formats import fault_of_image, has_colour
from tvmfbnet.data.images import FolderImages, ImageData
from tvmfbnet.data.kinds import IMAGE_SUFFIXES
from tvmfbnet.data.places import find_test_folder, folder_classes, no_images, visible_files
from tvmfbnet.errors import DataError
from tvmfbnet.files import storage_errors
from tvmfbnet.progress import progress, say

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_THREADS = 4
# Takes a second or two to check.
_QUICK = 10_000
# Unreadable files that a message names.
_NAMED = 50
# Longer than a tick of any file system's clock.
_TICK_NS = 100_000_000
# Classes of which the first image is asked whether it has colours.
_LOOKED_AT = 8


@dataclass(frozen=True)
class _Listing:
    """The image files of a data set at one moment; equal to a later listing if no file was written in between.

    Attributes:
        folder: the data set.
        names: of the classes, in the order of the labels.
        state: digest of every file's path, size and times of change.
        parts: for training and for testing the folder, the files and their labels.
        skipped: the number of other files by suffix.
    """

    folder: Path
    names: tuple[str, ...]
    state: str
    parts: tuple[tuple[Path, list[Path], list[int]], ...] = field(compare=False)
    skipped: Counter[str] = field(compare=False)


def load_folders(
    folder: Path, height: int, width: int, channels: int, subset: str | None, check: bool = True
) -> ImageData:
    """Finds and checks the images under ``folder/train/CLASS`` and ``folder/val/CLASS`` (or ``test``).

    Args:
        folder: the data set.
        height, width, channels: what images are brought to when they are loaded; 1 or 3 channels.
        subset: a number of classes, or a file that names them, one per line; all of them if None.
        check: whether every file is looked at, which takes minutes for millions.

    Raises:
        DataError: folders are missing or do not hold the same classes, or files are no readable images.
    """
    test_folder = find_test_folder(folder)
    names = folder_classes(folder, channels, subset)
    skipped: Counter[str] = Counter()
    parts = tuple((part, *_images_of(part, names, skipped)) for part in (folder / "train", test_folder))
    state = _state_of([file for _, files, _ in parts for file in files]) if check else ""
    listing = _Listing(folder, tuple(names), state, parts, skipped)
    if not check:
        return _images(listing, height, width, channels)
    return (_checked_images if state else _checked_images.__wrapped__)(listing, height, width, channels)


@lru_cache(maxsize=4)
def _checked_images(listing: _Listing, height: int, width: int, channels: int) -> ImageData:
    """The listed images, all of them readable; notes what is skipped and what is lost.

    One state of the files gives one object, so that its fingerprint is computed once, too.
    """
    folder, skipped = listing.folder, listing.skipped
    if skipped:
        told = ", ".join(f"{count} {suffix or 'without an ending'}" for suffix, count in skipped.most_common(5))
        say(f"note: {sum(skipped.values())} files under {folder} have no image suffix and are skipped: {told}")
    _check([file for _, files, _ in listing.parts for file in files], folder)
    _, files, labels = listing.parts[0]
    firsts = [files[labels.index(label)] for label in range(min(len(listing.names), _LOOKED_AT))]
    if channels == 1 and any(has_colour(file) for file in firsts):
        say(
            f"note: the images under {folder} have colours, and the space takes grey ones "
            "(append `,channels=3` to the space to keep the colours)"
        )
    return _images(listing, height, width, channels)


def _images(listing: _Listing, height: int, width: int, channels: int) -> ImageData:
    train, test = (
        FolderImages(files, root, torch.tensor(labels), channels, height, width)
        for root, files, labels in listing.parts
    )
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.449,), (0.226,))
    return ImageData("imagefolder", len(listing.names), train, test, mean, std, listing.names)


def _state_of(files: Sequence[Path]) -> str:
    """A digest of the paths, sizes and times of change of files; empty where one was written just now.

    Two writes within a tick of the file system's clock cannot be told apart; nobody can set ``ctime`` back.
    """
    digest, newest = hashlib.blake2b(digest_size=16), 0
    for file in files:
        with storage_errors(file, "read"):
            status = file.stat()
        state = f"{file}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"
        digest.update(state.encode(errors="surrogateescape"))
        newest = max(newest, status.st_ctime_ns)
    return digest.hexdigest() if newest < time.time_ns() - _TICK_NS else ""


def _images_of(folder: Path, names: Sequence[str], skipped: Counter[str]) -> tuple[list[Path], list[int]]:
    """The image files of each class, in order, and their labels; counts other files by suffix."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        with storage_errors(folder / name, "read"):
            candidates = sorted(visible_files(folder / name))
        images = [file for file in candidates if file.suffix.lower() in IMAGE_SUFFIXES]
        skipped.update(file.suffix.lower() for file in candidates if file.suffix.lower() not in IMAGE_SUFFIXES)
        if not images:
            raise no_images(folder / name)
        files += images
        labels += [label] * len(images)
    return files, labels


def _check(files: Sequence[Path], folder: Path) -> None:
    """Reads the header of every file; DataError names all unreadable images."""
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
