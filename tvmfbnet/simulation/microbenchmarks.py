"""Loops whose speed public documents give, to check the pipeline of a core.

Each takes the path of a kernel's block: assembled to machine code, disassembled, scheduled, corrected.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import Core, Documented
from tvmfbnet.simulation.tools import find_llvm

_ENCODING = re.compile(r"encoding: \[([0-9a-fx,]+)\]")
_SECONDS = 60
_CHAIN, _SUMS, _LOADS = 16, 24, 16
# The pointwise tile: 4 pixels x 8 channels, two steps of 4 input channels, all in 32 registers.
_PIXELS, _VECTORS, _STEPS = 4, 2, 2
_PRODUCTS = _PIXELS * _VECTORS * 4 * _STEPS
_TILE_LOADS = (_PIXELS + 4 * _VECTORS) * _STEPS


@dataclass(frozen=True)
class Microbenchmark:
    """A loop with a known speed.

    Args:
        name: what it is.
        instructions: the block.
        documented: cycles of one iteration by the documents; None where they do not say.
    """

    name: str
    instructions: Sequence[str]
    documented: Callable[[Documented, Core], float | None]


@dataclass(frozen=True)
class KnownAnswer:
    """A core's model beside the documents, in cycles of one iteration."""

    name: str
    model_cycles: float
    documented_cycles: float

    @property
    def error(self) -> float:
        """How much slower the model is, as a share."""
        return self.model_cycles / self.documented_cycles - 1


def microbenchmarks() -> list[Microbenchmark]:
    """All loops, for cores of AArch64."""
    sums = [f"fmla v{number}.4s, v30.4s, v31.4s" for number in range(_SUMS)]
    loads = [f"ldr q{number}, [x0, #{16 * number}]" for number in range(_LOADS)]
    stores = [f"str q{number}, [x1, #{16 * number}]" for number in range(_LOADS)]
    pointers = [f"ldr q{number}, [x0], #16" for number in range(_LOADS)]
    pairs = [f"ldp q{number}, q{number + 1}, [x0], #32" for number in range(0, _LOADS, 2)]
    copy = [instruction for pair in zip(loads, stores, strict=True) for instruction in pair]
    narrow = _loop([*_tile(_narrow_loads)])
    return [
        Microbenchmark(
            "fmla chain",
            _loop(["fmla v0.4s, v30.4s, v31.4s"] * _CHAIN),
            lambda figures, _: _times(_CHAIN, figures.fma_latency),
        ),
        Microbenchmark("independent fmla", _loop(sums), lambda figures, _: _SUMS / figures.fmas_per_cycle),
        Microbenchmark(
            "load to use", _loop(["ldr x0, [x0]"] * _CHAIN), lambda _, core: core.caches[0].latency_cycles * _CHAIN
        ),
        Microbenchmark("128-bit loads", _loop(loads), lambda figures, _: _over(_LOADS, figures.loads_per_cycle)),
        Microbenchmark(
            "post-indexed loads", _loop(pointers), lambda figures, _: _times(_LOADS, figures.pointer_cycles)
        ),
        Microbenchmark("post-indexed pairs", _loop(pairs), _documented_pairs),
        Microbenchmark("copy by 128 bits", _loop(copy), lambda figures, _: _times(_LOADS, figures.copy_cycles)),
        Microbenchmark("pointwise tile, 128-bit loads", _loop([*_tile(_wide_loads)]), _documented_wide),
        Microbenchmark(
            "pointwise tile, 64-bit loads",
            narrow,
            lambda figures, _: None if figures.loads_beside_fma else _documented_narrow(figures, len(narrow)),
        ),
    ]


def compare(core: Core, cycles: BlockCycles) -> list[KnownAnswer]:
    """The core's model beside the documents, for every loop of which they say something.

    Raises:
        UserError: LLVM's tools are missing, or the core has no documented figures.
    """
    if core.documented is None:
        raise UserError(f"core {core.name} has no section documented: nothing to compare its model with")
    figures = core.documented
    chosen = [(loop, loop.documented(figures, core)) for loop in microbenchmarks()]
    answers = cycles.of([assemble(loop.instructions) for loop, _ in chosen])
    return [
        KnownAnswer(loop.name, model, documented)
        for (loop, documented), model in zip(chosen, answers, strict=True)
        if documented is not None
    ]


def assemble(instructions: Sequence[str]) -> bytes:
    """Machine code of AArch64.

    Raises:
        UserError: LLVM's tools are missing.
        ValueError: an instruction is malformed.
    """
    said = subprocess.run(
        [find_llvm().assembler, "--triple=aarch64", "--mattr=+all", "--show-encoding"],
        input="\n".join(instructions) + "\n",
        capture_output=True,
        encoding="utf-8",
        timeout=_SECONDS,
    )
    encodings = _ENCODING.findall(said.stdout)
    if said.returncode != 0 or len(encodings) != len(instructions):
        raise ValueError(f"cannot assemble: {' | '.join(said.stderr.splitlines()[:2])}")
    return b"".join(bytes(int(byte, 16) for byte in encoding.split(",")) for encoding in encodings)


def _loop(body: list[str]) -> list[str]:
    """A counted loop; the count comes first, as an in-order core waits for it at the branch."""
    return ["subs x9, x9, #1", *body, "b.ne #-64"]


def _tile(loads: Callable[[list[tuple[int, str, int]]], list[str]]) -> Iterator[str]:
    """Multiply-adds of one step, with the loads of the next one spread between them."""
    for step in range(_STEPS):
        first, following = 12 * step, 12 * (1 - step)
        pending = loads(
            [
                (following + number, "x0" if number < _PIXELS else "x1", 16 * number)
                for number in range(_TILE_LOADS // _STEPS)
            ]
        )
        products = [
            f"fmla v{24 + pixel * _VECTORS + vector}.4s, v{first + _PIXELS + channel * _VECTORS + vector}.4s, "
            f"v{first + pixel}.s[{channel}]"
            for channel in range(4)
            for pixel in range(_PIXELS)
            for vector in range(_VECTORS)
        ]
        for number, product in enumerate(products):
            yield product
            begin, end = (len(pending) * at // len(products) for at in (number, number + 1))
            yield from pending[begin:end]


def _wide_loads(loads: list[tuple[int, str, int]]) -> list[str]:
    return [f"ldr q{register}, [{pointer}, #{offset}]" for register, pointer, offset in loads]


def _narrow_loads(loads: list[tuple[int, str, int]]) -> list[str]:
    """Each 128 bits by two loads of 64, as kernels for in-order cores do; inserts wait until their value is there."""
    inserts = [f"mov v{register}.d[1], x{2 + number % 4}" for number, (register, _, _) in enumerate(loads)]
    instructions = []
    for number, (register, pointer, offset) in enumerate(loads):
        instructions.append(f"ldr d{register}, [{pointer}, #{offset}]")
        instructions.append(f"ldr x{2 + number % 4}, [{pointer}, #{offset + 8}]")
        if number >= 3:
            instructions.append(inserts[number - 3])
    return instructions + inserts[-3:]


def _documented_pairs(figures: Documented, _: Core) -> float | None:
    """Bound by the loads: a pair's pointer is there when its two loads are done."""
    return None if figures.pointer_cycles is None else _over(_LOADS, figures.loads_per_cycle)


def _documented_wide(figures: Documented, _: Core) -> float:
    alone = None if figures.loads_beside_fma else _over(_TILE_LOADS, figures.loads_per_cycle)
    return _PRODUCTS / figures.fmas_per_cycle + (alone or 0.0)


def _documented_narrow(figures: Documented, instructions: int) -> float:
    """Two instructions per cycle at most, as the in-order cores issue them."""
    return max(_PRODUCTS / figures.fmas_per_cycle + figures.narrow_load_cycles * _TILE_LOADS, instructions / 2)


def _times(count: int, cycles: float | None) -> float | None:
    return None if cycles is None else count * cycles


def _over(count: int, rate: float | None) -> float | None:
    return None if rate is None else count / rate
