"""A minimal ELF reader: machine, needed libraries, and segment alignment.

A reader of our own, because the check of a device bundle must not depend on ``readelf`` being installed. Format: System
V ABI, chapters 4 and 5. Only 64-bit little-endian files are read beyond their header; other devices are not supported.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.files import storage_errors

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRING_TABLE, _STRING_SIZE, _END = 1, 5, 10, 0
# Beyond any real dynamic section; bounds the work on a damaged file.
_MOST_ENTRIES = 4096


class ElfError(UserError):
    """A file is not an ELF file, or is damaged."""


@dataclass(frozen=True)
class Elf:
    """The facts read from an ELF file.

    Args:
        machine: as ``uname -m`` names it (``aarch64``), or ``machine N``.
        bits: 32 or 64.
        needed: libraries that the loader must find; empty for 32-bit files.
        alignments: of the loadable segments, in bytes; empty for 32-bit files.
    """

    machine: str
    bits: int
    needed: tuple[str, ...] = ()
    alignments: tuple[int, ...] = ()


def is_elf(path: Path) -> bool:
    """Whether a file starts with the ELF magic; StorageError if it cannot be read."""
    with storage_errors(path, "read"), path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def read_elf(path: Path) -> Elf:
    """Reads a program or shared library.

    Raises:
        ElfError: not an ELF file, or damaged; names the file.
        StorageError: it cannot be read.
    """
    with storage_errors(path, "read"):
        data = path.read_bytes()
    if data[:4] != b"\x7fELF" or len(data) < 20:
        raise ElfError(f"{path} is no ELF file (no program or shared library of Linux or Android)")
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ElfError(f"{path} is a damaged ELF file: {error}") from error


def _parse(data: bytes) -> Elf:
    bits, order = {1: 32, 2: 64}[data[4]] if data[4] in (1, 2) else 0, data[5]
    if not bits or order not in (1, 2):
        raise ValueError(f"class {data[4]}, byte order {order}")
    (number,) = struct.unpack_from("<H" if order == 1 else ">H", data, 18)
    machine = _MACHINES.get(number, f"machine {number}")
    if bits == 32 or order == 2:
        return Elf(machine, bits)
    table, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    # type, flags, offset, virtual address, physical address, size in the file, size in memory, alignment
    segments = [struct.unpack_from("<IIQQQQQQ", data, table + index * size) for index in range(count)]
    loads = [segment for segment in segments if segment[0] == _LOAD]
    dynamic = [segment for segment in segments if segment[0] == _DYNAMIC]
    needed = _needed(data, dynamic[0], loads) if dynamic else ()
    return Elf(machine, bits, needed, tuple(segment[7] for segment in loads))


def _needed(data: bytes, dynamic: tuple[int, ...], loads: list[tuple[int, ...]]) -> tuple[str, ...]:
    entries: list[tuple[int, int]] = []
    for index in range(min(dynamic[5] // 16, _MOST_ENTRIES)):
        tag, value = struct.unpack_from("<qQ", data, dynamic[2] + index * 16)
        if tag == _END:
            break
        entries.append((tag, value))
    values = dict(entries)
    names = [value for tag, value in entries if tag == _NEEDED]
    if not names:
        return ()
    if _STRING_TABLE not in values or _STRING_SIZE not in values:
        raise ValueError("no table of names")
    address = values[_STRING_TABLE]
    inside = [segment for segment in loads if segment[3] <= address < segment[3] + segment[5]]
    if not inside:
        raise ValueError("its table of names lies outside of the file")
    start = inside[0][2] + address - inside[0][3]
    strings = data[start : start + values[_STRING_SIZE]]
    return tuple(strings[name : strings.index(b"\0", name)].decode() for name in names)
