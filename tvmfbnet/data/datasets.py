"""Finding and loading a data set by its spec, such as ``fashion_mnist`` or ``imagefolder:DIR``.

Behind an image folder, ``?classes=100`` takes 100 of its classes (always the same ones, spread by chance over the
alphabet, as FBNet's 100 proxy classes of ImageNet are) and ``?classes=FILE.txt`` those that a file names, one per line.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from tvmfbnet.data.clutter import brightness, render
from tvmfbnet.data.clutter_options import ClutterOptions
from tvmfbnet.data.coco import load_coco
from tvmfbnet.data.fingerprint import joined_digest, of_tensors
from tvmfbnet.data.folders import load_folders
from tvmfbnet.data.formats import read_cifar_batch, read_idx
from tvmfbnet.data.generated import generated_data
from tvmfbnet.data.generated_options import GeneratedOptions
from tvmfbnet.data.images import ImageData, TensorImages
from tvmfbnet.data.mask_folders import load_mask_folders
from tvmfbnet.data.places import (
    DataSpec,
    coco_task,
    find_cifar10,
    find_fashion_mnist,
    require_classes,
    require_grey_or_colour,
    require_shape,
)
from tvmfbnet.data.scene_options import SceneOptions
from tvmfbnet.data.scenes import scene_data
from tvmfbnet.errors import DataError
from tvmfbnet.extras import require

FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"),
    "Ankle boot",
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"),
    "truck",
)


def load_data(
    spec: str, height: int, width: int, channels: int, classes: int | None = None, check: bool = True
) -> ImageData:
    """Loads a data set at a space's input size.

    Args:
        spec: ``fashion_mnist``, ``cifar10`` (both take ``:DIR``) or ``imagefolder:DIR`` (``DIR/train/CLASS/*.jpg`` and
            ``DIR/val`` or ``DIR/test`` beside it; ``?classes=`` behind it takes a subset of the classes),
            ``fashion_scenes?task=NAME`` (several objects, with targets of a task), ``maskfolder:DIR`` (images with
            masks), ``coco:DIR?task=NAME`` (images with boxes), or
            ``generated?images=N&classes=N`` (noise).
        height, width, channels: what the space takes; smaller images are padded with zeros, evenly.
        classes: what the space's classifier gives; another number in the data is refused, but for a subset.
        check: whether every file of an image folder is looked at first.

    Raises:
        DataError: unknown spec, missing or damaged files, or a data set that does not fit the space.
        MissingExtraError: what judges answers to the data's targets is not installed.
    """
    asked = DataSpec.of(spec)
    if asked.kind == "imagefolder":
        data = load_folders(asked.images, height, width, channels, asked.subset, check)
    elif asked.kind == "coco":
        require_grey_or_colour(asked.kind, channels)
        data = load_coco(asked.images, coco_task(asked), height, width, channels)
    elif asked.kind == "maskfolder":
        require_grey_or_colour(asked.kind, channels)
        data = load_mask_folders(asked.images, height, width, channels)
    elif asked.kind == "generated":
        data = generated_data(GeneratedOptions.of(asked.options, spec), height, width, channels)
    else:
        require_shape(asked.kind, height, width, channels)
        data = _LOADERS[asked.kind](asked, height, width)
    require_classes(asked, data.classes, classes)
    if data.task == "detection":
        require("detection")
    return data


def _fashion_mnist(asked: DataSpec, height: int, width: int) -> ImageData:
    train, test = (
        _in_memory(pixels.unsqueeze(1), labels, height, width, "fashion_mnist")
        for pixels, labels in _fashion_mnist_sets(asked.folder)
    )
    return ImageData("fashion_mnist", 10, train, test, (0.2860,), (0.3530,), FASHION_MNIST_CLASSES)


def _fashion_mnist_sets(folder: Path | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Training and test set as they are stored: pixels uint8 (n, 28, 28), labels int64 (n,)."""
    files = find_fashion_mnist(folder)
    sets = []
    for part in ("train", "t10k"):
        pixels, labels = read_idx(files[f"{part}-images-idx3"]), read_idx(files[f"{part}-labels-idx1"])
        if pixels.dim() != 3 or labels.dim() != 1 or len(pixels) != len(labels):
            raise DataError(
                f"{files[f'{part}-images-idx3']} and its labels do not belong together; get the files again"
            )
        sets.append((pixels, labels.long()))
    return sets


def _cluttered(asked: DataSpec, height: int, width: int) -> ImageData:
    options = ClutterOptions.of(asked.options, asked.text)
    (train_pixels, train_labels), (test_pixels, test_labels) = _fashion_mnist_sets(asked.folder)
    chosen = torch.randint(len(train_labels), (options.images,), generator=torch.Generator().manual_seed(options.seed))
    every = torch.arange(len(test_labels)).repeat(options.views)
    sets = []
    for stream, (pixels, labels, shown) in enumerate(
        ((train_pixels, train_labels, chosen), (test_pixels, test_labels, every))
    ):
        # By what they are made of: rounding may differ by one from one CPU to another.
        digest = joined_digest([of_tensors(pixels, labels), options.describe(), f"{height}x{width}"])
        images = render(pixels, shown, options, height, width, stream)
        sets.append(TensorImages(images, labels[shown], digest))
    mean, std = brightness(sets[0].pixels)
    return ImageData(asked.kind, 10, sets[0], sets[1], (mean,), (std,), FASHION_MNIST_CLASSES)


def _cifar10(asked: DataSpec, height: int, width: int) -> ImageData:
    home = find_cifar10(asked.folder)
    batches = [read_cifar_batch(home / f"data_batch_{number}.bin") for number in range(1, 6)]
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    train = _in_memory(pixels, labels, height, width, "cifar10")
    test = _in_memory(*read_cifar_batch(home / "test_batch.bin"), height, width, "cifar10")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return ImageData("cifar10", 10, train, test, mean, std, CIFAR10_CLASSES)


def _scenes(asked: DataSpec, height: int, width: int) -> ImageData:
    options = SceneOptions.of(asked.options, asked.text)
    return scene_data(_fashion_mnist_sets(asked.folder), options, height, width, FASHION_MNIST_CLASSES)


_LOADERS = {
    "fashion_mnist": _fashion_mnist,
    "cluttered_fashion_mnist": _cluttered,
    "fashion_scenes": _scenes,
    "cifar10": _cifar10,
}


def _in_memory(pixels: torch.Tensor, labels: torch.Tensor, height: int, width: int, name: str) -> TensorImages:
    """Images in memory, padded to the requested size; their fingerprint is that of the unpadded ones."""
    return TensorImages(_pad(pixels, height, width, name), labels, of_tensors(pixels, labels))


def _pad(pixels: torch.Tensor, height: int, width: int, name: str) -> torch.Tensor:
    """Pads images evenly with zeros to the requested size; refuses larger images."""
    rows, columns = height - pixels.shape[2], width - pixels.shape[3]
    if rows < 0 or columns < 0:
        raise DataError(
            f"{name} images are {pixels.shape[2]}x{pixels.shape[3]}, larger than the space's input {height}x{width}"
        )
    return F.pad(pixels, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
