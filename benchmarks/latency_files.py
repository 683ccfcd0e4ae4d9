"""Latency tables that benchmarks are given: files, or processors that are described and simulated."""

from __future__ import annotations

from pathlib import Path

from tvmfbnet.latency.sources.simulated import PREFIX, parse_simulated
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.space.space import Space


def table_named(text: str, space: Space) -> LatencyTable:
    """A table that was exported to a CSV or Parquet file, or that of a space on a simulated processor.

    Raises:
        UserError: the file or the description cannot be read.
    """
    return parse_simulated(text).load(space.distinct_parts()) if text.startswith(PREFIX) else read_table(Path(text))
