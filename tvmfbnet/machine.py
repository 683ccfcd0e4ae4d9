"""The cores that this process may use, which may be fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
# No machine has more; keeps a core range in a file from filling memory.
_MOST_CORES = 4096


def core_numbers() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def allowed_cores() -> int:
    """Number of cores that this process may keep busy, by its affinity and its container's CPU quota; at least 1."""
    quota = _quota(_CGROUPS, _OWN_CGROUP)
    allowed = len(core_numbers())
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(cgroups: Path, own: Path) -> float | None:
    """CPU quota of a control group and its ancestors, in cores; None for no limit."""
    grants = []
    for line in _text(own).splitlines():
        _, _, fields = line.partition(":")
        controllers, _, group = fields.partition(":")
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        root = cgroups / controllers if controllers else cgroups
        folder = root / group.strip("/")
        while True:
            grants += [grant] if (grant := _grant(folder)) is not None else []
            if folder == root:
                break
            folder = folder.parent
    return min(grants, default=None)


def _grant(folder: Path) -> float | None:
    """CPU quota of one control group, in cores: ``cpu.max`` of version 2, or the two files of version 1."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None  # "max", or unreadable
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def describe_machine(facts: Mapping[str, object]) -> str:
    """A machine's reported facts in one line: model, architecture, cores, system; empty where it reported nothing."""
    system = " ".join(str(facts[name]) for name in ("system", "kernel") if facts.get(name))
    cores = f"{facts['cores']} cores" if facts.get("cores") else ""
    told = (facts.get("model") or facts.get("cpu_part"), facts.get("machine"), cores, system)
    return ", ".join(str(text) for text in told if text)


def parse_cores(text: str) -> tuple[int, ...]:
    """The core numbers of a list such as ``0,4-7``, in its order.

    Raises:
        ValueError: malformed list, descending range or duplicate core; says which.
    """
    numbers: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdigit() and len(end) <= len(str(_MOST_CORES)) for end in ends):
            raise ValueError(f"{part[:40]!r} is not a core or range of cores; write cores such as 0,4-7")
        low, high = int(ends[0]), int(ends[1])
        if high < low:
            raise ValueError(f"the range {part} counts down; write {high}-{low}")
        if high >= _MOST_CORES:
            raise ValueError(f"core {high} is more than any machine has ({_MOST_CORES})")
        twice = sorted(set(numbers) & set(range(low, high + 1)))
        if twice:
            raise ValueError(f"core {twice[0]} is named twice")
        numbers += range(low, high + 1)
    return tuple(numbers)


def format_cores(numbers: tuple[int, ...]) -> str:
    """A list of cores in the notation of :func:`parse_cores`: ``0,4-7``."""
    parts: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
