"""The identity of a data set, independent of its path: a digest of its content, so that a run resumes on the same data.

Data sets in memory are identified by all their pixels and labels, so packed and unpacked files are the same.
A folder of image files may be as large as ImageNet, so less identifies it: the name (class folder and file name, below
``train`` and ``val``) and size of every file, and the first MiB of up to 512 files per part, spread evenly over the
sorted names. A folder of up to 512 files per part is thereby read whole, but for what lies behind the
first MiB of a file. Where the folder lies, how its path is spelled, and when its files were written do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from tvmfbnet.errors import DataError

SAMPLED_FILES = 512
SAMPLED_BYTES = 2**20


def joined_digest(parts: Iterable[str]) -> str:
    """One digest of several texts, 32 hex digits; moving text from one to the next changes it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogateescape")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def of_tensors(pixels: torch.Tensor, labels: torch.Tensor) -> str:
    """The digest of images in memory: shapes, all pixels, all labels."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (pixels, labels.long()):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def of_files(files: Sequence[Path], root: Path) -> str:
    """The digest of image files below ``root``; DataError when one cannot be read.

    Args:
        files: in any order; their paths begin with ``root``.
        root: the folder that their names are told from.
    """
    start = len(str(root)) + 1
    named = sorted((str(file)[start:], file) for file in files)
    step = max(1.0, len(named) / SAMPLED_FILES)
    sampled = {int(index * step) for index in range(min(len(named), SAMPLED_FILES))}
    parts = []
    for index, (name, file) in enumerate(named):
        try:
            parts += [name, str(file.stat().st_size)]
            if index in sampled:
                parts.append(_head(file))
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}; remove it or get it again") from error
    return joined_digest(parts)


def _head(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.blake2b(stream.read(SAMPLED_BYTES), digest_size=16).hexdigest()
