"""Machine code to the text that llvm-mca reads, many blocks in one process of llvm-mc."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tvmfbnet.simulation.tools import Llvm

# Stands between blocks: an instruction that no compiler emits, its bytes and its text.
_MARKS = {
    "aarch64": (bytes.fromhex("e0dd57d4"), "hlt #0xbeef"),
    "x86_64": (bytes.fromhex("cdef"), "int $239"),
}
_COMMENTS = {"aarch64": "//", "x86_64": "#"}
_INVALID = re.compile(r"^<stdin>:(\d+):\d+: warning: invalid instruction encoding", re.MULTILINE)
_SECONDS = 300
# Everything that a core may have: a disassembler without a feature calls its instructions invalid.
_EVERY_FEATURE = {"aarch64": ["-mattr=+all"], "x86_64": []}


@dataclass(frozen=True)
class Disassembled:
    """One block.

    Args:
        instructions: mnemonic and operands, one space between, no comments.
        invalid: how many encodings llvm-mc does not know. Where instructions differ in length, a block ends at the
            first: the emulator's block may hold the beginning of an instruction that it left to the next one.
    """

    instructions: tuple[str, ...]
    invalid: int


def disassemble(llvm: Llvm, triple: str, blocks: Sequence[bytes]) -> list[Disassembled]:
    """Disassembles blocks.

    Raises:
        ValueError: a block contains the instruction that stands between blocks.
    """
    mark, mark_text = _MARKS[triple]
    atoms: list[bytes] = []
    owners: list[int] = []
    for number, block in enumerate(blocks):
        for part in [*_split(triple, block), mark]:
            atoms.append(part)
            owners.append(number)
    # In brackets no instruction crosses from one line into the next, and an invalid one costs its line alone.
    lines = ["[" + " ".join(f"0x{byte:02x}" for byte in atom) + "]" for atom in atoms]
    said = subprocess.run(
        [llvm.assembler, "--disassemble", f"--triple={triple}", *_EVERY_FEATURE[triple]],
        input="\n".join(lines) + "\n",
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=_SECONDS,
    )
    listings: list[list[str]] = [[]]
    for line in said.stdout.splitlines():
        text = " ".join(line.split(_COMMENTS[triple])[0].split())
        if text == mark_text:
            listings.append([])
        elif text and not text.startswith("."):
            listings[-1].append(text)
    if len(listings) != len(blocks) + 1 or listings[-1]:
        raise ValueError("a block contains the instruction that separates blocks")
    invalid = [0] * len(blocks)
    for line_number in _INVALID.findall(said.stderr):
        invalid[owners[int(line_number) - 1]] += 1
    if triple != "aarch64":
        invalid = [count if not listing else 0 for listing, count in zip(listings, invalid, strict=False)]
    return [Disassembled(tuple(listing), count) for listing, count in zip(listings, invalid, strict=False)]


def _split(triple: str, block: bytes) -> list[bytes]:
    """The block's instructions where all are of one length."""
    if triple == "aarch64":
        return [block[start : start + 4] for start in range(0, len(block), 4)]
    return [block] if block else []
