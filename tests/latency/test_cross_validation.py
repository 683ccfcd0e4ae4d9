"""What the regressor's score promises: the same figures for one seed, and the issue's bounds on real devices."""

import numpy as np
import pytest
from latency_samples import DEVICE_TABLES

from tvmfbnet.latency.cross_validation import SCHEMES, _splits, score
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space

FBNET = load_space("fbnet")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_that_is_scored_was_learned_from(scheme: str) -> None:
    parts = FBNET.distinct_parts()
    splits = list(_splits(parts, scheme, 8, 0, False))  # type: ignore[arg-type]
    scored = np.concatenate([scored for _, scored in splits])
    assert all(set(scored) <= set(left_out) for left_out, scored in splits)
    assert {parts[index].part for index in scored} == {"block"}
    assert "skip" not in {parts[index].block for index in scored}
    if scheme == "random":
        assert len(splits) == 8 and {len(left_out) for left_out, _ in splits} == {19}
    else:
        assert len(splits) == 12 and len(set(scored)) == len(scored) == 96
        for left_out, _ in splits:  # the skip of a held-out shape is held out as well
            shapes = {
                (parts[index].cin, parts[index].cout, parts[index].height, parts[index].stride) for index in left_out
            }
            learned = [part for index, part in enumerate(parts) if index not in set(left_out) and part.part == "block"]
            assert not shapes & {(part.cin, part.cout, part.height, part.stride) for part in learned}


def test_one_seed_gives_one_score_and_noise_is_not_predicted() -> None:
    parts = FBNET.distinct_parts()[::3]
    smooth = [0.05 + count_part(part).macs / 1e7 for part in parts]
    noise = np.random.default_rng(0).permutation(smooth)
    first, second = (score(parts, smooth, "random", 1, 3) for _ in range(2))
    assert first == second
    assert first["n"] == len(parts)
    assert first["mape"] < 0.15 < score(parts, noise, "random", 1, 3)["mape"]


@pytest.mark.slow
@pytest.mark.skipif(not DEVICE_TABLES.is_dir(), reason=f"real device tables are not at {DEVICE_TABLES}")
@pytest.mark.parametrize(
    ("device", "random", "shape_out"), [("pixel3", 0.05, 0.1), ("raspi4", 0.065, 0.095), ("edgegpu", 0.055, 0.065)]
)
def test_held_out_blocks_and_layer_shapes_of_real_devices_are_predicted(
    device: str, random: float, shape_out: float
) -> None:
    cells = read_table(DEVICE_TABLES / f"fbnet224_{device}.csv").cells
    for scheme, mape in zip(SCHEMES, (random, shape_out), strict=True):
        figures = score(list(cells), [cell.latency_ms for cell in cells.values()], scheme, 8)
        assert figures["mape"] <= mape
        assert figures["mape"] < figures["baseline_mape"]
        assert figures["spearman"] > 0.9
        assert 0.85 <= figures["coverage_90"] <= 0.95
        assert figures["n"] == 106
