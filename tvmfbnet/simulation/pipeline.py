"""Cycles of blocks by llvm-mca: steady loops of many blocks in few processes, with the corrections of a core.

A block is taken as a loop that runs for ever: its cycles are what one more iteration costs. That is right for the inner
loops that make up a kernel's time, and optimistic for a block that runs once, whose latencies nothing overlaps.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tvmfbnet.simulation.cores import Limit, Mca, Substitution
from tvmfbnet.simulation.tools import Llvm

# Changes when the same core, LLVM and block get other cycles.
REVISION = 1

# Iterations of the shorter and the longer run of a block, by its largest number of instructions: the difference is
# free of what filling and draining the pipeline costs.
_ITERATIONS = ((16, (24, 72)), (64, (16, 48)), (256, (10, 30)), (1 << 30, (6, 18)))
# Instructions of one process, iterations not counted.
_BATCH = 20_000
_SECONDS = 600
_UNSUPPORTED = re.compile(r"^(?:note: instruction:|<stdin>:\d+:\d+: error: .*\n)\s*(\S+)", re.MULTILINE)

Listing = tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """What llvm-mca says of a block.

    Args:
        cycles: of one iteration.
        unmodelled: instructions that it cannot schedule, which count as ``unmodelled_cycles`` each in ``cycles``.
    """

    cycles: float
    unmodelled: int


@dataclass(frozen=True)
class Analysed:
    """Schedules in the order of the listings, and the mnemonics that LLVM's model lacks."""

    schedules: list[Schedule]
    lacking: set[str]


def schedule(llvm: Llvm, mca: Mca, listings: Sequence[Listing]) -> Analysed:
    """Cycles of blocks that run as steady loops, by the scheduling model and the corrections of a core.

    Args:
        llvm: the tools.
        mca: the core's pipeline.
        listings: instructions of each block.
    """
    schedules = [Schedule(0.0, 0)] * len(listings)
    lacking: set[str] = set()
    for iterations, numbers in _batches(listings):
        texts = [_substituted(mca, listings[number]) for number in numbers]
        results, names = _steady(llvm, mca, texts, iterations)
        lacking |= names
        for number, text, (cycles, modelled) in zip(numbers, texts, results, strict=True):
            unmodelled = len(text) - modelled
            cycles = max([cycles, *(_at_least(limit, listings[number]) for limit in mca.limits)])
            schedules[number] = Schedule(cycles + unmodelled * mca.unmodelled_cycles, unmodelled)
    return Analysed(schedules, lacking)


def _batches(listings: Sequence[Listing]) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Blocks of about one size for one process each: iterations, and numbers of the blocks."""
    smallest = 0
    for largest, iterations in _ITERATIONS:
        numbers: list[int] = []
        size = 0
        for number, listing in enumerate(listings):
            if not smallest < len(listing) <= largest:
                continue
            numbers.append(number)
            size += len(listing)
            if size >= _BATCH:
                yield iterations, numbers
                numbers, size = [], 0
        if numbers:
            yield iterations, numbers
        smallest = largest


def _steady(
    llvm: Llvm, mca: Mca, texts: list[list[str]], iterations: tuple[int, int]
) -> tuple[list[tuple[float, int]], set[str]]:
    """Cycles of one iteration and the number of instructions that have a model, for each block."""
    runs = [_run(llvm, mca, texts, count) for count in iterations]
    if None not in runs:
        (short, lacking), (long, _) = [run for run in runs if run is not None]
        span = iterations[1] - iterations[0]
        return [
            ((after - before) / span, modelled) for (before, _), (after, modelled) in zip(short, long, strict=True)
        ], lacking
    if len(texts) == 1:  # llvm-mca fails on this block
        return [(0.0, 0)], {text.split()[0] for text in texts[0]}
    middle = len(texts) // 2
    first, first_lacking = _steady(llvm, mca, texts[:middle], iterations)
    second, second_lacking = _steady(llvm, mca, texts[middle:], iterations)
    return first + second, first_lacking | second_lacking


def _run(
    llvm: Llvm, mca: Mca, texts: list[list[str]], iterations: int
) -> tuple[list[tuple[int, int]], set[str]] | None:
    """Cycles in all and modelled instructions of each block; None where llvm-mca fails."""
    lines = []
    for number, text in enumerate(texts):
        lines += [f"# LLVM-MCA-BEGIN b{number}", *text, "# LLVM-MCA-END"]
    command = [
        *(llvm.analyser, f"-mtriple={mca.triple}", f"-mcpu={mca.cpu}", f"-iterations={iterations}", "-json"),
        *("-instruction-info=0", "-resource-pressure=0", "-call-latency=1", "-skip-unsupported-instructions=any"),
        *([f"-mattr={','.join('+' + feature for feature in mca.features)}"] if mca.features else []),
        *([f"-dispatch={mca.dispatch}"] if mca.dispatch is not None else []),
    ]
    try:
        said = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
        )
        regions = json.loads(said.stdout)["CodeRegions"] if said.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    if regions is None:
        return None
    totals = [(0, 0)] * len(texts)
    for region in regions:
        summary = region["SummaryView"]
        totals[int(region["Name"][1:])] = (summary["TotalCycles"], summary["Instructions"] // iterations)
    return totals, set(_UNSUPPORTED.findall(said.stderr))


def _substituted(mca: Mca, listing: Listing) -> list[str]:
    substitutions = tuple(mca.substitutions)
    return [scheduled for instruction in listing for scheduled in _substitute(substitutions, instruction)]


@lru_cache(maxsize=65_536)
def _substitute(substitutions: tuple[Substitution, ...], instruction: str) -> tuple[str, ...]:
    for substitution in substitutions:
        match = re.fullmatch(substitution.match, instruction)
        if match is not None:
            return tuple(match.expand(substitution.schedule_as).split("; "))
    return (instruction,)


def _at_least(limit: Limit, listing: Listing) -> float:
    """The cycles that a block occupies a limited resource for."""
    uses = tuple((use.match, use.cycles) for use in limit.uses)
    return sum(_use(uses, instruction) for instruction in listing)


@lru_cache(maxsize=65_536)
def _use(uses: tuple[tuple[str, float], ...], instruction: str) -> float:
    for pattern, cycles in uses:
        if re.fullmatch(pattern, instruction) is not None:
            return cycles
    return 0.0
