"""A described processor as a latency source: a roofline over the kernels of each part, with no device at all.

A kernel (a conv with what is fused into it) takes as long as its arithmetic at the peak rate or its memory traffic at
the full bandwidth, whichever is longer, plus the cost of starting it (Williams et al., Roofline, 2009). That is a lower
bound for a real processor: it knows no caches, no vector widths and no schedules. So it serves to try a search, and to
compare archs by arithmetic and traffic, but it does not tell what a net takes on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from tvmfbnet.config import Config, validate
from tvmfbnet.errors import ConfigError, LatencyError
from tvmfbnet.files import read_yaml
from tvmfbnet.latency.cells import SIMULATED, Cell
from tvmfbnet.latency.features import conv_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.shipped import is_file_name
from tvmfbnet.space.space import NetPart, Space

PREFIX = "simulated:"
# An element that a channel shuffle moves is read and written once more.
_SHUFFLE = 2.0

Rate = Annotated[float, Field(ge=1e-6, le=1e9)]
Microseconds = Annotated[float, Field(ge=0, le=1e9)]


class Processor(Config):
    """A processor as a roofline sees it.

    Attributes:
        name: for people; "" for one that is described on the command line.
        gflops: peak rate of arithmetic, 1e9 operations per second; a multiply-accumulate is two.
        gbps: memory bandwidth, 1e9 bytes per second.
        kernel_us: cost of starting one kernel, microseconds.
        call_us: cost of calling the runtime, microseconds, once per net.
        element_bytes: size of a weight or activation: 4 for float32, 2 for float16, 1 for int8.
    """

    name: str = ""
    gflops: Rate
    gbps: Rate
    kernel_us: Microseconds = 0.0
    call_us: Microseconds = 0.0
    element_bytes: Literal[1, 2, 4, 8] = 4


@dataclass(frozen=True)
class SimulatedSource:
    """The latencies of a described processor. Every cell is labelled ``simulated``, and its spread is 0: models repeat.

    Attributes:
        name: ``simulated:`` and what describes the processor.
        processor: its description.
    """

    name: str
    processor: Processor

    @property
    def computes(self) -> bool:
        """Yes: it has a latency for any part."""
        return True

    def load(self, parts: Sequence[NetPart] = ()) -> LatencyTable:
        """The latencies of ``parts``; an identity skip has no cell, as it computes nothing."""
        computing = [part for part in dict.fromkeys(parts) if not part.is_identity]
        if not computing:
            raise LatencyError(
                f"{self.name} computes the latencies of a space's parts and has none of its own: "
                "give --space, where the command takes one"
            )
        cells = {
            part: Cell(float(ms), source=SIMULATED)
            for part, ms in zip(computing, _latencies_ms(self.processor, computing), strict=True)
        }
        return LatencyTable(cells, self.processor.call_us / 1e3, self.name).with_origin("simulated", self.name)

    def correct(self, table: LatencyTable, space: Space) -> LatencyTable:
        """The same table: sums of simulated cells were compared with no net."""
        return table


def _latencies_ms(processor: Processor, parts: Sequence[NetPart]) -> Any:
    """Milliseconds of each part, the sum over its kernels: (parts,)."""
    convs = conv_table(parts, processor.element_bytes)
    moved_bytes = convs.moved_bytes + convs.weight_bytes + convs.residual_bytes + _SHUFFLE * convs.shuffled_bytes
    arithmetic_ms = 2.0 * convs.macs / (1e6 * processor.gflops)
    traffic_ms = moved_bytes / (1e6 * processor.gbps)
    return convs.by_part(np.maximum(arithmetic_ms, traffic_ms) + processor.kernel_us / 1e3)


def parse_simulated(text: str) -> SimulatedSource:
    """The source that ``simulated:gflops=16,gbps=8`` or ``simulated:core.yaml`` describes.

    Raises:
        ConfigError: values are missing, unknown or out of range; lists all of them.
        StorageError: the file cannot be read.
    """
    described = text.removeprefix(PREFIX)
    if is_file_name(described):
        processor = validate(Processor, read_yaml(Path(described)), described)
        return SimulatedSource(PREFIX + (processor.name or Path(described).stem), processor)
    values: dict[str, Any] = {}
    for item in filter(None, (item.strip() for item in described.split(","))):
        name, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or name in values:
            what = "is given twice" if equals else "is no NAME=VALUE"
            raise ConfigError(text, [f"{item[:40]!r} {what}; write {PREFIX}gflops=16,gbps=8, or {PREFIX}FILE.yaml"])
        values[name] = value
    return SimulatedSource(text, validate(Processor, {**values, **_whole(values)}, text))


def _whole(values: dict[str, Any]) -> dict[str, int]:
    """``element_bytes`` as a number, where it is one: a choice among numbers is not read from text."""
    value = values.get("element_bytes", "")
    return {"element_bytes": int(value)} if value.isdecimal() and len(value) < 4 else {}
