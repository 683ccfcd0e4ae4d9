"""A phone's latency table, as a colleague's spreadsheet wrote it, to an arch in one command."""

import json

import pytest
from newcomer import make_photos, tvmfbnet

from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space

SPACE = "fbnet_mini@32,classes=3,channels=3"


def write_table(path, space, encoding, separator=";", unit="us"):
    """A table in microseconds with decimal commas, as spreadsheets of half the world write it."""
    rows = [["part", "block", "cin", "cout", "height", "width", "stride", f"latency_{unit}"]]
    for part in space.distinct_parts():
        latency = f"{12.5 + count_part(part).macs / 900:.2f}".replace(".", ",")
        rows.append([*map(str, part.to_dict().values()), latency])
    path.write_text("\r\n".join(separator.join(row) for row in rows) + "\r\n", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_as_people_have_it_gives_an_arch_in_one_command(tmp_path, encoding):
    make_photos(tmp_path / "photos", ["cat", "dog", "golden retriever"], train=40, val=10)
    write_table(tmp_path / "PIXEL3.CSV", load_space(SPACE), encoding)
    quick = ["--epochs", "2", "--batch-size", "16", "--train-images", "100", "--threads", "1", "--device", "cpu"]
    done = tvmfbnet(
        *(tmp_path, "search", "--latency-table", "PIXEL3.CSV", "--space", "fbnet_mini@32,channels=3", *quick),
        *("--data", "imagefolder:photos", "--latency-target", "50%", "--json"),
    )
    result = json.loads(done.stdout)
    assert result["measured_share"] == 1.0, "every figure of the file is used"
    record = json.loads((tmp_path / "search/search.json").read_text())
    costs = record["costs"]
    slowest_ms = costs["fixed_ms"] + sum(max(row) for row in costs["cells_ms"])
    assert record["latency_target_ms"] == pytest.approx(slowest_ms / 2, abs=1e-6)
    assert 0.9 * slowest_ms / 2 < result["predicted_ms"] <= slowest_ms / 2
    space = load_space(SPACE)
    stem_ms = (12.5 + count_part(space.stem).macs / 900) / 1000
    assert costs["fixed_ms"] > stem_ms and costs["fixed_ms"] < 10, "microseconds were read as such"


def test_a_table_with_a_decimal_comma_between_commas_is_refused_and_never_cut(tmp_path):
    make_photos(tmp_path / "photos", ["cat", "dog", "golden retriever"], train=4, val=2)
    write_table(tmp_path / "pixel3.csv", load_space(SPACE), "utf-8", separator=",", unit="ms")
    words = ["search", "--latency-table", "pixel3.csv", "--space", "fbnet_mini@32,channels=3"]
    done = tvmfbnet(tmp_path, *words, "--data", "imagefolder:photos", codes=(2,))
    assert "line 2" in done.stderr and "separate fields by semicolons" in done.stderr
