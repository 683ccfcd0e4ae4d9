"""Reading the file formats of the supported data sets: IDX (MNIST family), CIFAR-10's binary batches, picture files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch

from tvmfbnet.errors import DataError


def read_idx(path: Path) -> torch.Tensor:
    """Reads a uint8 IDX file, plain or gzipped, as a tensor; DataError when it is cut short or something else."""
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; get the file again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of bytes; get the file again")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:header]) if len(content) >= header else ()
    if len(shape) != dimensions or len(content) - header != math.prod(shape):
        raise DataError(f"{path} is cut short; get the file again")
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)


def read_cifar_batch(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads one file of CIFAR-10's binary version: pixels uint8 (n, 3, 32, 32) and labels int64 (n,)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    record = 1 + 3 * 32 * 32
    if not content or len(content) % record:
        raise DataError(f"{path} is not a batch of CIFAR-10's binary version; get the file again")
    rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, record)
    return rows[:, 1:].reshape(-1, 3, 32, 32).clone(), rows[:, 0].long()


def read_picture(path: Path, channels: int) -> torch.Tensor:
    """Decodes a picture file to uint8 (channels, height, width); DataError names a file that cannot be decoded."""
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional as tv

    try:
        with Image.open(path) as picture:
            converted = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is not a readable picture; remove it or get it again") from error
    return tv.pil_to_tensor(converted)  # type: ignore[no-any-return]
