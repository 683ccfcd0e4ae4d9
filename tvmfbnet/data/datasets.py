"""Finding and loading a data set by its spec: ``fashion_mnist[:DIR]``, ``cifar10[:DIR]`` or ``imagefolder:DIR``.

Behind an image folder, ``?classes=100`` takes so many of its classes (always the same ones, spread by chance over the
alphabet, as FBNet's 100 proxy classes of ImageNet are) and ``?classes=FILE.txt`` those that a file names, one a line.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.nn import functional as F

from tvmfbnet.data.files import read_cifar_batch, read_idx
from tvmfbnet.data.fingerprint import of_tensors
from tvmfbnet.data.folders import class_names, load_folders
from tvmfbnet.data.images import ImageData, TensorImages
from tvmfbnet.errors import DataError

SYSTEM_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # Debian package dataset-fashion-mnist
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
            ``DIR/val`` or ``DIR/test`` beside it; ``?classes=`` behind it takes a subset of the classes).
        height, width, channels: what the space takes; smaller pictures are padded with zeros, evenly.
        classes: what the space's classifier gives; another number in the data is refused, but for a subset.
        check: whether every file of an image folder is looked at first.

    Raises:
        DataError: unknown spec, missing or damaged files, or a data set that does not fit the space.
    """
    name, _, rest = spec.partition(":")
    place, subset_asked, subset = rest.partition("?classes=")
    folder = Path(place).expanduser() if place else None
    if name == "fashion_mnist":
        data = _fashion_mnist(folder, height, width, channels)
    elif name == "cifar10":
        data = _cifar10(folder, height, width, channels)
    elif name == "imagefolder":
        data = load_folders(folder, height, width, channels, subset if subset_asked else None, check)
    else:
        raise DataError(_unknown(spec))
    if subset_asked and name != "imagefolder":
        raise DataError(f"data set {spec}: only an imagefolder takes a subset of its classes")
    if classes is not None and data.classes != classes and not (subset_asked and data.classes < classes):
        raise DataError(
            f"data set {spec} has {data.classes} classes but the space classifies {classes}: "
            f"put `,classes={data.classes}` behind the space"
        )
    return data


def classes_of(spec: str) -> int | None:
    """How many classes a data set has, before any image is read; None for a subset of the classes of another one.

    Raises:
        DataError: unknown spec, or a folder that is missing.
    """
    name, _, rest = spec.partition(":")
    place, subset_asked, _ = rest.partition("?classes=")
    if name in ("fashion_mnist", "cifar10"):
        return 10
    if name != "imagefolder":
        raise DataError(_unknown(spec))
    return None if subset_asked else len(class_names(Path(place).expanduser() / "train"))


def _unknown(spec: str) -> str:
    return f"unknown data set {spec!r}: use fashion_mnist[:DIR], cifar10[:DIR] or imagefolder:DIR"


def relocated(spec: str, place: str) -> str:
    """The spec of a data set that has moved.

    Args:
        spec: what it was.
        place: the new spec, or the new folder alone; kind and subset of the classes are then those of ``spec``.
    """
    if place.partition(":")[0] in ("fashion_mnist", "cifar10", "imagefolder"):
        return place
    kind, _, rest = spec.partition(":")
    _, subset_asked, subset = rest.partition("?classes=")
    return f"{kind}:{place}{subset_asked}{subset}"


def _search_places(folder: Path | None, subfolder: str, system: str | None = None) -> list[Path]:
    """The folders where a data set may lie, in order; an explicit folder is the only one."""
    if folder is not None:
        return [folder]
    places = [Path("datasets") / subfolder]
    if "TVMFBNET_DATA" in os.environ:
        places.insert(0, Path(os.environ["TVMFBNET_DATA"]) / subfolder)
    return places + ([Path(system)] if system else [])


def _fashion_mnist(folder: Path | None, height: int, width: int, channels: int) -> ImageData:
    places = _search_places(folder, "fashion-mnist", SYSTEM_FASHION_MNIST)
    places += [place / "FashionMNIST" / "raw" for place in ([folder] if folder else [p.parent for p in places])]
    found = {}
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        files = [
            p / f"{name}-ubyte{end}" for p in places for end in (".gz", "") if (p / f"{name}-ubyte{end}").is_file()
        ]
        if not files:
            raise DataError(
                f"Fashion-MNIST is missing ({name}-ubyte.gz not in {', '.join(map(str, places))}): "
                "apt install dataset-fashion-mnist, or put the four .gz files in a folder DIR and say fashion_mnist:DIR"
            )
        found[name] = files[0]
    if channels != 1:
        raise DataError(f"fashion_mnist is grey (1 channel) but the space takes {channels} channels")
    sets = []
    for part in ("train", "t10k"):
        pixels, labels = read_idx(found[f"{part}-images-idx3"]), read_idx(found[f"{part}-labels-idx1"])
        if pixels.dim() != 3 or labels.dim() != 1 or len(pixels) != len(labels):
            raise DataError(
                f"{found[f'{part}-images-idx3']} and its labels do not belong together; get the files again"
            )
        sets.append(_in_memory(pixels.unsqueeze(1), labels.long(), height, width, "fashion_mnist"))
    return ImageData("fashion_mnist", 10, sets[0], sets[1], (0.2860,), (0.3530,), FASHION_MNIST_CLASSES)


def _cifar10(folder: Path | None, height: int, width: int, channels: int) -> ImageData:
    places = _search_places(folder, "cifar10")
    places += [place / "cifar-10-batches-bin" for place in places]
    home = next((place for place in places if (place / "data_batch_1.bin").is_file()), None)
    if home is None:
        raise DataError(
            f"CIFAR-10 is missing (data_batch_1.bin not in {', '.join(map(str, places))}): unpack "
            "cifar-10-binary.tar.gz in a folder DIR and say cifar10:DIR"
        )
    if channels != 3:
        raise DataError(f"cifar10 has 3 channels but the space takes {channels}")
    batches = [read_cifar_batch(home / f"data_batch_{number}.bin") for number in range(1, 6)]
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    train = _in_memory(pixels, labels, height, width, "cifar10")
    test = _in_memory(*read_cifar_batch(home / "test_batch.bin"), height, width, "cifar10")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return ImageData("cifar10", 10, train, test, mean, std, CIFAR10_CLASSES)


def _in_memory(pixels: torch.Tensor, labels: torch.Tensor, height: int, width: int, name: str) -> TensorImages:
    """Images that were read whole, padded to the size asked for, and known by their content before that."""
    return TensorImages(_pad(pixels, height, width, name), labels, of_tensors(pixels, labels))


def _pad(pixels: torch.Tensor, height: int, width: int, name: str) -> torch.Tensor:
    """Pads pictures evenly with zeros to the size asked for; larger pictures are refused."""
    rows, columns = height - pixels.shape[2], width - pixels.shape[3]
    if rows < 0 or columns < 0:
        raise DataError(
            f"{name} pictures are {pixels.shape[2]}x{pixels.shape[3]}, larger than the space's input {height}x{width}"
        )
    return F.pad(pixels, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
