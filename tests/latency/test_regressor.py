import json
import math
from pathlib import Path

import numpy as np
import pytest
from latency_samples import measured_space

from tvmfbnet.errors import LatencyError, StorageError
from tvmfbnet.latency import roofline
from tvmfbnet.latency.features import KINDS, SHAPES, conv_table, shapes
from tvmfbnet.latency.regressor import LatencyRegressor, complete
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

FBNET = load_space("fbnet")
MINI = load_space("fbnet_mini")


def synthetic_device(part: NetPart) -> float:
    """A device whose truth is known: MACs, traffic and a fixed cost, and a penalty that no sum explains."""
    table = conv_table([part])
    traffic = float(table.moved_bytes[table.is_pointwise | table.is_depthwise].sum())
    penalty = 1.3 if part.height >= 28 else 1.0
    return penalty * (count_part(part).macs / 4e6 + traffic / 8e6 + 0.02)


def test_features_have_their_names_and_are_finite() -> None:
    parts = [*FBNET.distinct_parts(), *MINI.distinct_parts()]
    assert shapes(parts).shape == (len(parts), len(SHAPES))
    assert np.isfinite(shapes(parts)).all()
    assert len({tuple(row) for row in shapes(parts)}) == len(parts)


def test_the_convs_of_parts_are_counted_as_the_space_counts_them() -> None:
    parts = [*FBNET.distinct_parts(), NetPart("block", "k5_e4_se_hswish", 40, 40, 14, 14, 1)]
    table = conv_table(parts)
    pool = np.array([part.part == "head_pool" for part in parts])
    assert np.array_equal(
        table.by_part(table.macs)[~pool], [count_part(part).macs for part in parts if part.block != "avgpool"]
    )
    assert {KINDS[kind] for kind in table.kind} == set(KINDS)
    assert (table.by_part(table.residual_bytes) > 0).tolist() == [part.has_residual for part in parts]


def test_the_base_models_slopes_are_those_of_its_latency() -> None:
    parts = FBNET.distinct_parts()
    table = conv_table(parts)
    prepared = roofline._prepare(table, *roofline._seen(table))
    costs = roofline.fit_base(parts, np.array([synthetic_device(part) for part in parts])).costs
    step = 1e-6 * np.eye(len(costs))
    numeric = [
        (roofline._log_ms(costs + one, prepared) - roofline._log_ms(costs - one, prepared)) / 2e-6 for one in step
    ]
    assert np.abs(roofline._slopes(costs, prepared) - np.array(numeric).T).max() < 1e-6


@pytest.mark.parametrize("launch_ms", [0.0, 0.4])
def test_the_base_learns_a_roofline_and_starts_that_hide_behind_work_or_do_not(launch_ms: float) -> None:
    def device_ms(part: NetPart) -> float:
        table = conv_table([part])
        convs = np.maximum(table.macs / 2e7, (table.moved_bytes + table.weight_bytes) / 5e6)
        return max(float(convs.sum()), launch_ms * len(table.macs)) + 0.01

    parts = FBNET.distinct_parts()
    left_out = [part for part in parts if (part.cin, part.height) == (64, 14)]
    measured = [part for part in parts if part not in left_out]
    fitted = roofline.fit_base(measured, np.array([device_ms(part) for part in measured]))
    error = np.exp(fitted.log_ms(left_out)) / np.array([device_ms(part) for part in left_out]) - 1.0
    assert np.abs(error).mean() < 0.04


def test_unmeasured_blocks_of_a_known_device_are_predicted_within_a_few_percent() -> None:
    parts = FBNET.distinct_parts()
    measured, unmeasured = parts[::2], parts[5::2]
    regressor = LatencyRegressor().fit(measured, [synthetic_device(part) for part in measured])
    predicted, spread = regressor.predict(unmeasured)
    error = np.abs(predicted / np.array([synthetic_device(part) for part in unmeasured]) - 1)
    assert error.mean() < 0.05
    assert (spread > 0).all()


def test_eight_measurements_are_enough_to_predict_every_other_block_sensibly() -> None:
    parts = FBNET.distinct_parts()
    measured = [*parts[:4], *parts[4::26]][:8]
    assert len(measured) == 8
    predicted, spread = LatencyRegressor().fit(measured, [synthetic_device(part) for part in measured]).predict(parts)
    truth = np.array([synthetic_device(part) for part in parts])
    assert np.isfinite(predicted).all()
    assert np.isfinite(spread).all()
    assert (predicted > 0).all()
    assert np.median(np.abs(predicted / truth - 1)) < 0.5


def test_a_kind_of_work_that_was_never_measured_is_not_free() -> None:
    measured = [part for part in FBNET.distinct_blocks() if part.block.startswith("k3") and "_g2" not in part.block]
    regressor = LatencyRegressor().fit(measured, [synthetic_device(part) for part in measured])
    small, large = (NetPart("block", f"k{kernel}_e6", 64, 64, 14, 14, 1) for kernel in (3, 5))
    predicted, _ = regressor.predict([small, large])
    assert predicted[1] > predicted[0]


def test_one_seed_gives_the_same_predictions() -> None:
    parts = MINI.distinct_parts()
    latency = [synthetic_device(part) for part in parts]
    first, second = (LatencyRegressor(3).fit(parts, latency).predict(parts) for _ in range(2))
    assert np.array_equal(first, second)


def test_an_identity_skip_is_predicted_to_cost_nothing() -> None:
    parts = MINI.distinct_parts()
    regressor = LatencyRegressor().fit(parts, [synthetic_device(part) for part in parts])
    latency, spread = regressor.predict([MINI.layers[0].cell("skip"), parts[0]])
    assert (latency[0], spread[0]) == (0.0, 0.0)
    assert latency[1] > 0


def test_a_saved_regressor_predicts_the_same_and_is_plain_json(tmp_path: Path) -> None:
    parts = MINI.distinct_parts()
    regressor = LatencyRegressor().fit(parts, [synthetic_device(part) for part in parts])
    regressor.save(tmp_path / "model.json")
    assert json.loads((tmp_path / "model.json").read_text())["schema_version"] == 3
    loaded = LatencyRegressor.load(tmp_path / "model.json")
    assert np.array_equal(loaded.predict(FBNET.distinct_parts()), regressor.predict(FBNET.distinct_parts()))


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_an_unreadable_regressor_file_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(StorageError, match=r"model\.json"):
        LatencyRegressor.load(tmp_path / "model.json")


def test_a_regressor_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    parts = MINI.distinct_parts()
    LatencyRegressor().fit(parts, [synthetic_device(part) for part in parts]).save(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 1}))
    with pytest.raises(StorageError, match="another version"):
        LatencyRegressor.load(file)


def test_a_block_outside_the_papers_nine_is_predicted_between_its_neighbours() -> None:
    parts = [part for part in FBNET.distinct_parts() if part.cin != 64]
    regressor = LatencyRegressor().fit(parts, [synthetic_device(part) for part in parts])
    blocks = [NetPart("block", name, 32, 32, 28, 28, 1) for name in ("k5_e3", "k5_e4", "k5_e6", "k7_e6")]
    predicted, _ = regressor.predict(blocks)
    truth = np.array([synthetic_device(part) for part in blocks])
    assert (np.diff(predicted) > 0).all()
    assert np.abs(predicted / truth - 1).max() < 0.3


def test_the_interval_is_wider_where_nothing_alike_was_measured() -> None:
    parts = [part for part in FBNET.distinct_parts() if part.cin != 64]
    regressor = LatencyRegressor().fit(parts[1::2], [synthetic_device(part) for part in parts[1::2]])
    near = parts[::2]
    far = [NetPart("block", "k3_e6", 64, 64, 14, 14, 1), NetPart("block", "k9_e9", 1024, 1024, 3, 3, 1)]
    (near_ms, near_spread), (far_ms, far_spread) = regressor.predict(near), regressor.predict(far)
    assert (far_spread / far_ms).min() > np.median(near_spread / near_ms)


def test_what_cannot_be_learned_from_is_refused() -> None:
    parts = MINI.distinct_parts()
    with pytest.raises(LatencyError, match="at least 8"):
        LatencyRegressor().fit(parts[:7], [1.0] * 7)
    with pytest.raises(LatencyError, match="finite"):
        LatencyRegressor().fit(parts[:9], [1.0] * 8 + [math.nan])
    with pytest.raises(LatencyError, match="one per part"):
        LatencyRegressor().fit(parts[:9], [1.0] * 8)
    with pytest.raises(LatencyError, match="not been fitted"):
        LatencyRegressor().predict(parts)


def test_filling_a_table_keeps_what_was_measured_and_marks_what_was_not() -> None:
    arch = parse_arch("k3_e1,skip/k5_e3,skip,k3_e6/skip,skip", MINI)
    partial = LatencyTable.from_measurements(measured_space(every=3))
    full = complete(partial, MINI.distinct_parts())
    assert partial.missing(MINI.distinct_parts())
    assert not full.missing(MINI.distinct_parts())
    for part, cell in full.cells.items():
        assert cell.source == ("measured" if part in partial.cells else "predicted")
        assert part not in partial.cells or cell == partial.cells[part]
    predicted = sum(full.cells[part].latency_ms for part in MINI.parts_of(arch) if part not in partial.cells)
    assert 0 < full.measured_share(arch, MINI) < 1
    assert full.measured_share(arch, MINI) == pytest.approx(1 - predicted / full.arch_ms(arch, MINI))


def test_a_table_with_too_little_to_learn_from_lists_what_it_lacks() -> None:
    few = LatencyTable.from_measurements(measured_space()[:6])
    with pytest.raises(LatencyError, match="lacks"):
        complete(few, MINI.distinct_parts())
