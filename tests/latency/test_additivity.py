"""What comparing sums with whole nets promises: the gap is found, and corrected no further than the data supports."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latency_samples import CONTEXT, measured_space, measurement

from tvmfbnet.errors import LatencyError, StorageError
from tvmfbnet.latency.additivity import (
    NONE,
    RESOLUTIONS,
    SCALE,
    SCALE_OFFSET,
    load_correction,
    net_measurements,
    save_study,
    study,
)
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import net_part
from tvmfbnet.latency.repository import corrected, correction_path, journal_path, load_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart, content_key

SPACE = load_space("fbnet_mini")
TABLE = LatencyTable.from_measurements(measured_space())
NETS = 40


def nets(scale=lambda part: 1.0, offset: float = 0.0, noise: float = 0.005) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Random nets on a device whose parts take ``scale`` times their isolated latency."""
    rng = random.Random(1)
    latencies = {}
    while len(latencies) < NETS:
        arch = Arch(tuple(rng.choice(layer.blocks) for layer in SPACE.layers))
        parts = SPACE.parts_of(arch)
        total = TABLE.overhead_ms + offset + sum(TABLE.lookup(part).latency_ms * scale(part) for part in parts)
        latencies[format_arch(arch, SPACE)] = total * (1 + rng.gauss(0, noise))
    return latencies


def test_nets_that_are_the_sum_of_their_blocks_need_no_correction() -> None:
    validation = study(TABLE, SPACE, nets())
    assert validation.correction.kind == NONE and validation.correction.describe() == ""
    assert validation.agreement.mean_error < 0.01 and abs(validation.agreement.bias) < 0.005
    assert validation.agreement.spearman > 0.95 and validation.agreement.kendall > 0.85
    assert validation.corrected.mean_error == pytest.approx(validation.agreement.mean_error)


def test_a_net_wide_slowdown_is_a_scale() -> None:
    validation = study(TABLE, SPACE, nets(lambda part: 1.2, 0.2 * TABLE.overhead_ms))
    assert validation.correction.kind == SCALE
    assert validation.correction.scales == {0: pytest.approx(1.2, rel=0.01)}
    assert validation.agreement.bias == pytest.approx(1 / 1.2 - 1, abs=0.01)
    assert validation.corrected.mean_error < 0.01


def test_a_cost_that_every_net_pays_is_an_offset() -> None:
    validation = study(TABLE, SPACE, nets(offset=2.0))
    assert validation.correction.kind == SCALE_OFFSET
    assert validation.correction.offset_ms == pytest.approx(2.0, rel=0.1)


def test_nets_of_light_blocks_that_save_more_than_their_share_have_an_offset_below_zero() -> None:
    measured = nets(lambda part: 1.3)
    least = min(measured.values())
    validation = study(TABLE, SPACE, {arch: ms - 0.2 * least for arch, ms in measured.items()})
    assert validation.correction.kind == SCALE_OFFSET
    assert validation.correction.offset_ms == pytest.approx(-0.2 * least, rel=0.25)
    assert validation.corrected.mean_error < 0.01
    assert validation.correction.apply(TABLE).range_ms(SPACE)[0] > 0


def test_layers_that_suffer_more_than_others_get_their_own_scale() -> None:
    def scale(part: NetPart) -> float:
        return 2.0 if part.height == SPACE.layers[-1].height else 1.0

    validation = study(TABLE, SPACE, nets(scale))
    assert validation.correction.kind == RESOLUTIONS
    assert (
        validation.correction.scales[SPACE.layers[-1].height]
        > validation.correction.scales[SPACE.layers[0].height] + 0.5
    )
    assert validation.corrected.mean_error < validation.errors[SCALE] < validation.agreement.mean_error


def test_a_corrected_tables_sums_are_the_corrected_predictions() -> None:
    measured = nets(lambda part: 1.1 if part.height > 8 else 1.5, 0.3)
    validation = study(TABLE, SPACE, measured)
    table = validation.correction.apply(TABLE)
    assert table.correction == validation.correction.describe() != ""
    errors = [abs(table.arch_ms(parse_arch(text, SPACE), SPACE) / ms - 1) for text, ms in measured.items()]
    assert np.mean(errors) < 0.012 < validation.agreement.mean_error / 5
    assert {part: cell.source for part, cell in table.cells.items()} == dict.fromkeys(TABLE.cells, "measured")
    with pytest.raises(LatencyError, match="plain one"):
        study(table, SPACE, measured)


def test_too_few_nets_are_refused() -> None:
    few = dict(list(nets().items())[:4])
    with pytest.raises(LatencyError, match="at least 5"):
        study(TABLE, SPACE, few)


def test_a_stored_correction_is_used_until_something_is_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(journal_path("host", tmp_path))
    for item in measured_space():
        journal.append(item)
    table, path = load_table("host", tmp_path), correction_path("host", SPACE, CONTEXT, tmp_path)
    assert corrected(table, "host", SPACE, tmp_path) is table
    save_study(study(table, SPACE, nets(lambda part: 1.2)), table, path)
    used = corrected(load_table("host", tmp_path), "host", SPACE, tmp_path)
    assert used.correction.startswith("x1.") and capsys.readouterr().err == ""
    part = SPACE.layers[0].cell("k3_e1")
    assert used.lookup(part).latency_ms > 1.1 * table.lookup(part).latency_ms
    journal.append(measurement(part, 9.0, overhead_ms=0.2, time="2099-01-01T00:00:00.000+00:00"))
    changed = load_table("host", tmp_path)
    assert corrected(changed, "host", SPACE, tmp_path) is changed
    assert "is not used" in capsys.readouterr().err
    assert corrected(table, "host", load_space("fbnet"), tmp_path) is table
    namesake = replace(SPACE, classes=SPACE.classes + 1)
    assert corrected(table, "host", namesake, tmp_path) is table, "a space of this name, but of other content"
    other = replace(table, context=replace(CONTEXT, device_model="Another CPU"))
    assert corrected(other, "host", SPACE, tmp_path) is other, "another device"


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": 9}', '{"schema_version": 1, "correction": 3}'])
def test_an_unreadable_correction_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(StorageError, match=r"c\.json"):
        load_correction(tmp_path / "c.json", TABLE)


def test_only_nets_of_the_space_with_the_newest_kernels_count() -> None:
    def net(arch: str, ms: float, **changes: object):  # type: ignore[no-untyped-def]
        return measurement(
            net_part(SPACE), ms, arch=arch, **{"space": SPACE.name, "space_key": content_key(SPACE), **changes}
        )

    old, new = "2024-01-01T00:00:00.000+00:00", "2024-06-01T00:00:00.000+00:00"
    records = [
        net("a", 1.0, trials=64, time=old),
        net("b", 3.0, trials=64, time=old),
        net("a", 2.0, trials=128, time=new),
        net("c", 4.0, trials=128, time=new, space_key=content_key(load_space("fbnet"))),
        net("e", 4.0, trials=128, time=new, space_key=None),
        net("d", 5.0, trials=128, time=new, threads=1),
        measurement(),
    ]
    newest = net_measurements(records, SPACE, records[0].context)
    assert {arch: item.latency_ms for arch, item in newest.items()} == {"a": 2.0}
