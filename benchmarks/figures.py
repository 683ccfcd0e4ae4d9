"""How a benchmark hands a figure to `run.py`, beside what it prints for people, and the interval of a mean.

`run.py` names a file in the environment; each figure becomes a line of it at once, so that a benchmark that is killed
keeps what it had. Without that file nothing is written, and the benchmark is what it always was.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

FIGURES_FILE = "TVMFBNET_BENCHMARK_FIGURES"
"""The environment variable with the file's name."""

Unit = Literal["ms", "s", "trials/s", "images/s", "ratio", "%", "bytes", "count"]
ABSOLUTE: frozenset[str] = frozenset({"ms", "s", "trials/s", "images/s"})
"""Units of what a faster machine does faster: such figures are compared on one machine only, unless they are exact."""


def report_figure(
    name: str,
    values: float | Iterable[float],
    unit: Unit,
    *,
    better: Literal["lower", "higher"],
    exact: bool = False,
) -> None:
    """Hands over one figure.

    Args:
        name: unique within the benchmark; says what is measured, with its settings where they vary.
        values: in ``unit``, one for each repeat of the same measurement: their median is the figure, how far they lie
            apart its noise. Values of different things (kernels, archs) are no repeats: give their mean.
        unit: of the values.
        better: which direction is an improvement.
        exact: counted or computed, not timed: the same sources give the same value every time and on every machine.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    file = os.environ.get(FIGURES_FILE)
    if not file:
        return
    numbers = [float(value) for value in (values if isinstance(values, Iterable) else [values])]
    if not numbers:
        raise ValueError(f"figure {name!r} has no values")
    figure = {"name": name, "unit": unit, "better": better, "exact": exact, "values": numbers}
    with Path(file).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(figure, allow_nan=False) + "\n")


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean (Student's t); not a number for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
