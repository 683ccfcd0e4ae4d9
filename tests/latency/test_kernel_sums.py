"""What tuning knows of a block's kernels makes its latency predictable; where it knows nothing, shapes have to do."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.active_learning import choose_batch
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.cross_validation import score
from tvmfbnet.latency.regressor import LatencyRegressor, PartPredictor, complete
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

FBNET = load_space("fbnet")
PARTS = FBNET.distinct_parts()


def kernels_of(part: NetPart) -> float:
    """Kernels whose quality nothing about the shape tells: some schedules are lucky, some are not."""
    luck = math.sin(97.0 * PARTS.index(part))
    return (0.01 + count_part(part).macs / 1e8) * math.exp(0.3 * luck)


def latency_of(part: NetPart) -> float:
    """In a net they take longer, and large inputs longer still."""
    return 1.1 * kernels_of(part) * (1.05 if part.height >= 28 else 1.0)


KERNEL_MS = {part: kernels_of(part) for part in PARTS}


def test_times_of_kernels_predict_what_shapes_cannot() -> None:
    latency = [latency_of(part) for part in PARTS]
    by_shape = score(PARTS, latency, splits=2)
    by_kernels = score(PARTS, latency, splits=2, kernel_ms=KERNEL_MS)
    assert by_kernels["mape"] < 0.03
    assert by_kernels["mape"] < 0.3 * by_shape["mape"]


def test_a_table_is_filled_from_kernels_where_they_were_tuned_and_from_shapes_elsewhere() -> None:
    measured, tuned, neither = PARTS[:60], PARTS[60:100], PARTS[100:]
    cells = {part: Cell(latency_of(part)) for part in measured}
    times = {part: KERNEL_MS[part] for part in (*measured, *tuned)}
    filled = complete(LatencyTable(cells, kernel_ms=times), PARTS)
    without = complete(LatencyTable(cells), PARTS)
    assert not filled.missing(PARTS)
    for part in neither:
        alike = (filled.lookup(part), without.lookup(part))
        assert alike[0].latency_ms == pytest.approx(alike[1].latency_ms)
        assert alike[0].spread_ms == pytest.approx(alike[1].spread_ms) and alike[0].source == alike[1].source

    def error(table: LatencyTable) -> float:
        return float(np.mean([abs(table.lookup(part).latency_ms / latency_of(part) - 1.0) for part in tuned]))

    assert error(filled) < 0.3 * error(without)


def test_too_few_tuned_blocks_were_measured_to_learn_from_their_kernels() -> None:
    cells = {part: Cell(latency_of(part)) for part in PARTS[:60]}
    few = LatencyTable(cells, kernel_ms={part: KERNEL_MS[part] for part in (*PARTS[:7], *PARTS[60:])})
    assert complete(few, PARTS).cells == complete(replace(few, kernel_ms={}), PARTS).cells


def test_a_regressor_that_knows_kernels_names_the_block_whose_kernels_it_lacks(tmp_path: Path) -> None:
    measured = PARTS[:40]
    times = {part: KERNEL_MS[part] for part in PARTS[:50]}
    regressor = LatencyRegressor().fit(measured, [latency_of(part) for part in measured], times)
    with pytest.raises(LatencyError, match=PARTS[60].name.replace("/", ".")):
        regressor.predict([PARTS[60]])
    regressor.save(tmp_path / "model.json")
    loaded = LatencyRegressor.load(tmp_path / "model.json")
    assert np.array_equal(loaded.predict(PARTS[40:50]), regressor.predict(PARTS[40:50]))


def test_blocks_are_chosen_by_what_their_kernels_leave_open() -> None:
    chosen = choose_batch(PARTS, 10, kernel_ms=KERNEL_MS)
    assert len(set(chosen)) == 10
    assert chosen != choose_batch(PARTS, 10)
    lacking = {part: ms for part, ms in KERNEL_MS.items() if part != PARTS[5]}
    assert choose_batch(PARTS, 10, kernel_ms=lacking) == choose_batch(PARTS, 10), "of all parts or of none"


def test_parts_of_another_space_without_times_do_not_disable_the_kernels() -> None:
    foreign = replace(PARTS[0], cin=7, cout=7)
    assert choose_batch(PARTS, 10, {foreign: 1.0}, kernel_ms=KERNEL_MS) == choose_batch(PARTS, 10, kernel_ms=KERNEL_MS)


def test_held_out_blocks_without_kernel_times_are_scored_from_shapes_and_the_others_from_kernels() -> None:
    parts = PARTS[::2]
    latency = [latency_of(part) for part in parts]
    half = {part: KERNEL_MS[part] for part in parts[::2]}
    whole, partial, none = (score(parts, latency, splits=1, kernel_ms=times) for times in (KERNEL_MS, half, None))
    assert whole["mape"] < 0.7 * partial["mape"] and partial["mape"] < 0.8 * none["mape"]


def test_a_predictor_says_how_many_samples_teach_it_about_kernels() -> None:
    parts, few = PARTS[:40], {part: KERNEL_MS[part] for part in PARTS[:7]}
    latency = [latency_of(part) for part in parts]
    assert PartPredictor(parts, latency, KERNEL_MS).tuned == 40
    assert PartPredictor(parts, latency, few).tuned == 0, "too few to learn from"
    by_few, by_shapes = (PartPredictor(parts, latency, times).predict(PARTS[40:50]) for times in (few, None))
    assert np.array_equal(by_few, by_shapes)
