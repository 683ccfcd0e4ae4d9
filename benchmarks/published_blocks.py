"""Published latencies of a space's blocks, and how simulated ones compare with them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from figures import report_figure
from scipy.stats import spearmanr

from tvmfbnet.space.space import BLOCK, NetPart, Space

# Block, input channels, output channels, input height, input width and stride.
Key = tuple[str, int, int, int, int, int]


def published_ms(path: Path) -> dict[Key, float]:
    """Latency by block, input channels, output channels, input height, input width and stride."""
    with path.open() as stream:
        return {
            (row["block"], *(int(row[name]) for name in ("cin", "cout", "height", "width", "stride"))): float(
                row["latency_ms"]
            )
            for row in csv.DictReader(stream)
            if row["part"] == "block" and row["block"] != "skip"
        }


def blocks_of(space: Space) -> list[NetPart]:
    """The space's distinct blocks, without those that do nothing."""
    parts = {layer.part(block) for layer in space.layers for block in layer.blocks}
    return sorted({part for part in parts if part is not None and part.part == BLOCK and part.block != "skip"}, key=str)


def compare(simulated_ms: Mapping[NetPart, float], published: Mapping[Key, float]) -> None:
    """Prints how simulated times compare with the published ones of the same blocks, with and without grouped ones."""
    rows = {}
    for part, simulated in simulated_ms.items():
        key = (part.block, part.cin, part.cout, part.height, part.width, part.stride)
        if key in published:
            rows[part] = (simulated, published[key])
    report(rows)
    print("Without grouped blocks, which depend most on how a runtime runs them:")
    report({part: both for part, both in rows.items() if "_g" not in part.block})


def best_scale(simulated: np.ndarray, published: np.ndarray) -> tuple[float, float]:
    """The scale of the simulated times with the smallest MAPE, and that MAPE."""
    scales = published / simulated
    errors = [float(np.mean(np.abs(scale * simulated - published) / published)) for scale in scales]
    best = int(np.argmin(errors))
    return float(scales[best]), errors[best]


def report(rows: Mapping[NetPart, tuple[float, float]]) -> None:
    """Prints the comparison: over all blocks, by block type, and the blocks that are furthest off."""
    parts = list(rows)
    simulated, published = (np.array([rows[part][side] for part in parts]) for side in (0, 1))
    scale, mape = best_scale(simulated, published)
    rank = spearmanr(simulated, published).statistic
    what = f"{len(parts)} blocks"
    report_figure(f"{what}, Spearman", float(rank), "ratio", better="higher", exact=True)
    report_figure(f"{what}, MAPE after the best scale", 100 * mape, "%", better="lower", exact=True)
    print(f"{len(parts)} blocks: Spearman {rank:.3f}, MAPE {mape:.1%} after the scale {scale:.3f}")
    relative = scale * simulated / published - 1
    for name in sorted({part.block for part in parts}):
        members = [index for index, part in enumerate(parts) if part.block == name]
        print(f"  {name:9} median error {np.median(relative[members]):+6.1%}")
    for index in sorted(range(len(parts)), key=lambda index: -abs(relative[index]))[:12]:
        part = parts[index]
        print(
            f"  {part.block:9} {part.cin:4} -> {part.cout:4} at {part.height:3} stride {part.stride}: simulated "
            f"{simulated[index]:8.3f} ms, published {published[index]:8.3f} ms, {relative[index]:+.0%}"
        )
