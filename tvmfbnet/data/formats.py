"""Reading the file formats of the supported data sets: IDX (MNIST family), CIFAR-10's binary batches, image files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tvmfbnet.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

# How far from a JPEG's end its end marker may lie: some cameras append a few bytes.
_JPEG_TAIL = 64


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


def read_image(path: Path, channels: int) -> torch.Tensor:
    """Decodes an image file to uint8 (channels, height, width), honouring its EXIF orientation.

    16-bit greyscale is scaled to 8 bits. Palettes are resolved, CMYK becomes RGB. Transparency becomes white.
    Of several frames or pages the first is used. With one channel, colours become luma (ITU-R 601-2).

    Raises:
        DataError: it cannot be decoded, or holds numbers that have no defined brightness (32-bit integers, floats).
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional as tv

    try:
        with Image.open(path) as opened:
            converted = _to_8_bits(opened).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError(f"{path} is not a readable image ({reason(error)}); remove it or get it again") from error
    return tv.pil_to_tensor(converted)  # type: ignore[no-any-return]


def reason(error: Exception) -> str:
    """A file's error in a few words."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _to_8_bits(image: PilImage) -> PilImage:
    """The image upright, with 8 bits per channel and nothing transparent: mode L, RGB or CMYK."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        values = np.asarray(upright.convert("I"))
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it holds 32-bit integers; save it with 8 or 16 bits")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if upright.mode == "F":
        raise ValueError("it holds floating-point numbers; save it with 8 or 16 bits")
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        shown = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    return upright


def has_colour(path: Path) -> bool:
    """Whether a readable image file has colours, by its header."""
    from PIL import Image

    with Image.open(path) as image:
        return image.mode not in ("1", "L", "LA", "La", "F", "I") and not image.mode.startswith("I;")


def fault_of_image(path: Path) -> str:
    """Why an image file cannot be decoded, by its header and its end; empty if it looks sound.

    A file with an unexpected end is decoded whole, to be sure.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if not _has_its_end(path, image.format or ""):
                image.load()
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        return reason(error)
    return ""


def _has_its_end(path: Path, kind: str) -> bool:
    """Whether a JPEG or PNG file has its end marker; True for formats without one."""
    if kind not in ("JPEG", "PNG"):
        return True
    with path.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - _JPEG_TAIL))
        tail = stream.read()
    return b"\xff\xd9" in tail if kind == "JPEG" else tail.endswith(b"IEND\xaeB`\x82")
