"""Measuring a share promises: as many blocks as asked for, what was there counts in, and a stopped run goes on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from tvmfbnet.cli.shares import parse_share
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, Measurement, summarise
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.profiling.active_sampling import blocks_to_measure, measure_share
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import BLOCK, NetPart

SPACE = load_space("fbnet_mini")
BLOCKS = SPACE.distinct_blocks()
FIXED = SPACE.fixed_parts()
CONTEXT = Context("host", "k", "0.27.0", "0.1", "{}", 1, "float32", "NHWC", IN_NET, "Some CPU", 1, "0-3")


class Device:
    """Times parts by a law of its own and writes them down, as the real one does."""

    def __init__(self, folder: Path, trials: int = 8, stops_after: int | None = None) -> None:
        self.journal = Journal(folder / "latency.jsonl")
        self.trials = dict.fromkeys((*FIXED, *BLOCKS), trials)
        self.batches: list[list[NetPart]] = []
        self.stops_after = stops_after

    def write(self, part: NetPart, trials: int, context: Context = CONTEXT, protocol: str = IN_NET) -> None:
        samples = [0.05 + count_part(part).macs / 1e7] * 3
        fields = {**context.to_dict(), **summarise(samples), "part": part, "trials": trials, "protocol": protocol}
        self.journal.append(Measurement.model_validate(fields))

    def measure(self, parts: Sequence[NetPart]) -> int:
        recorded = {(item.part, item.trials) for item in self.journal.read()}
        due = [part for part in parts if (part, self.trials[part]) not in recorded]
        self.batches.append(due)
        for part in due:
            if self.stops_after == 0:
                raise KeyboardInterrupt
            self.write(part, self.trials[part])
            self.stops_after = None if self.stops_after is None else self.stops_after - 1
        return len(due)

    def go(self, share: float) -> tuple[int, int]:
        return measure_share(SPACE, self.trials, share, self.journal, CONTEXT, self.measure)

    @property
    def cells(self) -> set[NetPart]:
        return set(LatencyTable.from_measurements(self.journal.read(), CONTEXT).cells)


def test_a_share_of_the_blocks_is_measured_in_batches_and_stem_and_head_always(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert device.go(0.4) == (len(FIXED) + 17, len(FIXED) + 17)
    assert sum(part.part == BLOCK for part in device.cells) == 17 == blocks_to_measure(len(BLOCKS), 0.4)
    assert set(FIXED) <= device.cells
    assert len([batch for batch in device.batches if batch]) > 2, "what a batch showed decides on the next"
    assert device.go(0.4) == (0, len(FIXED) + 17)


def test_all_of_the_blocks_take_no_choice(tmp_path: Path) -> None:
    device = Device(tmp_path)
    assert device.go(1.0) == (len(FIXED) + len(BLOCKS),) * 2
    assert len(device.batches) == 1


def test_what_was_measured_before_counts_in(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for part in (*FIXED, *BLOCKS[:10]):
        device.write(part, 8)
    assert device.go(0.4) == (7, len(FIXED) + 17)
    assert set(BLOCKS[:10]) <= device.cells
    assert device.go(0.2) == (0, len(FIXED) + 9), "more is there than was asked for"


def test_what_was_timed_otherwise_does_not_count(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for part in BLOCKS[:10]:
        device.write(part, 7, replace(CONTEXT, dtype="float16"))
        device.write(part, 7, protocol="isolated")
    assert device.go(0.4) == (len(FIXED) + 17,) * 2


def test_blocks_of_older_kernels_are_timed_again_before_new_ones(tmp_path: Path) -> None:
    device = Device(tmp_path)
    old = BLOCKS[20:26]
    for part in old:
        device.write(part, 4)
    device.go(0.4)
    blocks = [part for batch in device.batches for part in batch if part.part == BLOCK]
    assert set(blocks[: len(old)]) == set(old) and len(blocks) == 17


def test_a_stopped_measurement_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    device = Device(tmp_path, stops_after=11)
    with pytest.raises(KeyboardInterrupt):
        device.go(0.4)
    again = Device(tmp_path)
    assert again.go(0.4) == (len(FIXED) + 17 - 11, len(FIXED) + 17)
    assert len(again.journal.read()) == len(FIXED) + 17


@pytest.mark.parametrize(("text", "share"), [("40%", 0.4), ("0.4", 0.4), ("100 %", 1.0), ("1", 1.0), (".5", 0.5)])
def test_a_share_is_written_as_people_write_it(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["40", "0", "0%", "101%", "-1", "some", "", "nan"])
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="40% or"):
        parse_share(text)
