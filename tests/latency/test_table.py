import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latency_samples import CONTEXT, DEVICE_TABLES, PART, measured_space, measurement

from tvmfbnet.errors import ConfigError, LatencyError, StorageError, UserError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import OVERHEAD_PART, net_part, summarise
from tvmfbnet.latency.repository import journal_path, load_table, table_path, target_folder
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table, require_stated_dtype, table_content, write_table
from tvmfbnet.space.arch_text import parse_arch, resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

SPACE = load_space("fbnet_mini")
OTHER = NetPart("block", "k3_e1", 64, 64, 14, 14, 1)
ARCH = parse_arch("k3_e1,skip/k5_e3,skip,k3_e6/skip,skip", SPACE)


def test_statistics_are_those_of_the_repeats() -> None:
    figures = summarise([3.0, 1.0, 2.0, 4.0, 10.0])
    assert (figures["latency_ms"], figures["min_ms"], figures["mean_ms"], figures["n"]) == (3.0, 1.0, 4.0, 5)
    assert figures["p10_ms"] == pytest.approx(np.percentile([1, 2, 3, 4, 10], 10))
    assert figures["p90_ms"] == pytest.approx(np.percentile([1, 2, 3, 4, 10], 90))
    assert figures["std_ms"] == pytest.approx(np.std([1, 2, 3, 4, 10]))
    with pytest.raises(LatencyError):
        summarise([])


def test_call_overhead_is_paid_once_a_net_and_not_once_a_block() -> None:
    table = LatencyTable.from_measurements(measured_space())
    assert table.overhead_ms == pytest.approx(0.2)
    parts = SPACE.parts_of(ARCH)
    raw = {item.part: item.latency_ms for item in measured_space()}
    assert table.arch_ms(ARCH, SPACE) == pytest.approx(0.2 + sum(raw[part] - 0.2 for part in parts))


def test_a_part_faster_than_an_empty_call_costs_nothing_not_less() -> None:
    table = LatencyTable.from_measurements([measurement(PART, 0.2, overhead_ms=0.5)])
    assert table.lookup(PART).latency_ms == 0.0
    assert table.overhead_ms == 0.5


def test_the_matrix_holds_every_candidate_and_agrees_with_arch_ms() -> None:
    table = LatencyTable.from_measurements(measured_space())
    matrix = table.matrix(SPACE)
    assert [len(row) for row in matrix] == [len(layer.blocks) for layer in SPACE.layers] == [9] * 7
    assert matrix[1][8] == 0.0  # an identity skip
    assert matrix[2][8] > 0.0  # a projecting one
    chosen = [layer.blocks.index(block) for layer, block in zip(SPACE.layers, ARCH.blocks, strict=True)]
    total = table.fixed_ms(SPACE) + sum(matrix[layer][block] for layer, block in enumerate(chosen))
    assert total == pytest.approx(table.arch_ms(ARCH, SPACE))
    low, high = table.range_ms(SPACE)
    assert low < total < high


def test_a_layer_with_fewer_candidates_has_a_shorter_row_and_no_padding() -> None:
    table = LatencyTable.from_measurements(measured_space())
    layers = (replace(SPACE.layers[0], blocks=SPACE.layers[0].blocks[:2]), *SPACE.layers[1:])
    fewer = replace(SPACE, layers=layers)
    assert table.matrix(fewer) == (table.matrix(SPACE)[0][:2], *table.matrix(SPACE)[1:])
    fastest, slowest = table.range_ms(fewer)
    assert slowest - table.range_ms(SPACE)[1] == pytest.approx(
        max(table.matrix(fewer)[0]) - max(table.matrix(SPACE)[0])
    )
    assert fastest >= table.range_ms(SPACE)[0]


def test_what_is_missing_is_listed_and_never_counted_as_zero() -> None:
    measurements = [item for item in measured_space() if item.part.block not in ("k5_e3", "linear")]
    table = LatencyTable.from_measurements(measurements)
    with pytest.raises(LatencyError) as caught:
        table.arch_ms(ARCH, SPACE)
    assert "block/k5_e3/16-32/16x16/s2" in str(caught.value)
    assert "head_linear/linear/128-10" in str(caught.value)
    with pytest.raises(LatencyError, match="lacks 5 part"):
        table.matrix(SPACE)
    with pytest.raises(LatencyError, match="k5_e3"):
        table.lookup(SPACE.layers[2].cell("k5_e3"))


def test_the_newest_measurement_of_a_part_wins() -> None:
    old = measurement(PART, 5.0, time="2024-01-01T00:00:00.000+00:00")
    new = measurement(PART, 3.0, time="2024-06-01T00:00:00.000+00:00")
    for order in ([old, new], [new, old]):
        assert LatencyTable.from_measurements(order).lookup(PART).latency_ms == pytest.approx(2.75)


def test_a_clock_that_went_backwards_does_not_make_the_newest_measurement_old(tmp_path: Path) -> None:
    journal = Journal(journal_path("host", tmp_path))
    journal.append(measurement(PART, 5.0, time="2099-01-01T00:00:00.000+00:00"))
    journal.append(measurement(PART, 3.0, time="2024-06-01T00:00:00.000+00:00"))
    assert load_table("host", tmp_path).lookup(PART).latency_ms == pytest.approx(2.75)
    journal.append(measurement(PART, 4.0, tvm_version="0.28", time="2023-06-01T00:00:00.000+00:00"))
    assert load_table("host", tmp_path).lookup(PART).latency_ms == pytest.approx(3.75)


def test_two_device_models_never_mix_and_a_fleet_of_equal_ones_shares_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(journal_path("host", tmp_path))
    journal.append(measurement(PART, 5.0, device_model="Pixel 3"))
    journal.append(measurement(OTHER, 7.0, device_model="Pixel 6", fingerprint={"serial": "1"}))
    journal.append(measurement(PART, 3.0, device_model="Pixel 6", fingerprint={"serial": "2"}))
    wanted = CONTEXT.compile_side
    for context in (None, wanted):
        assert set(load_table("host", tmp_path, context).cells) == {PART, OTHER}
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Pixel 6 was measured last" in said and "not Pixel 3" in said
    chosen = load_table("host", tmp_path, wanted, device_model="Pixel 3")
    assert {part: cell.latency_ms for part, cell in chosen.cells.items()} == {PART: pytest.approx(4.75)}
    assert capsys.readouterr().err == ""
    with pytest.raises(LatencyError, match="nothing of device model 'Pixel 9'; there are: Pixel 3, Pixel 6"):
        load_table("host", tmp_path, device_model="Pixel 9")


def test_times_of_another_tvm_or_target_are_not_used_and_the_reader_says_what_to_do(tmp_path: Path) -> None:
    Journal(journal_path("host", tmp_path)).append(measurement(tvm_version="0.26", device_model="Old CPU"))
    wanted = replace(CONTEXT, device_threads=None, device_cores=None)
    with pytest.raises(LatencyError, match="tvmfbnet tune --target host") as caught:
        load_table("host", tmp_path, wanted)
    assert "TVM 0.26 instead of 0.27.0" in str(caught.value) and "Old CPU instead of Some CPU" in str(caught.value)


def test_a_part_timed_in_several_nets_gets_their_mean_and_unsteady_ones_only_count_alone() -> None:
    times = [f"2024-0{month}-01T00:00:00.000+00:00" for month in range(1, 6)]
    old = measurement(PART, 9.0, protocol="in_net", trials=8, time=times[0])
    met = [measurement(PART, ms, protocol="in_net", time=time) for ms, time in ((3.0, times[1]), (4.0, times[2]))]
    shaken = measurement(PART, 20.0, protocol="in_net", steady=False, time=times[3])
    cell = LatencyTable.from_measurements([old, *met, shaken]).lookup(PART)
    assert cell.latency_ms == pytest.approx(3.25) and cell.n == 6 and cell.trials == 64
    assert cell.spread_ms > 0.5
    alone = LatencyTable.from_measurements([shaken]).lookup(PART)
    assert alone.latency_ms == pytest.approx(19.75)


def test_whole_nets_never_enter_the_table() -> None:
    net = measurement(net_part(SPACE), 9.0, arch="x", space="fbnet_mini")
    assert list(LatencyTable.from_measurements([measurement(), net]).cells) == [PART]
    with pytest.raises(LatencyError, match="no measurements"):
        LatencyTable.from_measurements([net])


@pytest.mark.parametrize(
    "change",
    [{"tvm_version": "0.26"}, {"dtype": "float16"}, {"threads": 1}, {"target": "phone"}, {"layout": "NCHW"}],
)
def test_measurements_of_different_contexts_are_never_mixed(change: dict[str, object]) -> None:
    other = measurement(OVERHEAD_PART if "target" in change else PART, 7.0, **change)
    with pytest.raises(LatencyError, match="must not be mixed") as caught:
        LatencyTable.from_measurements([measurement(), other])
    assert str(next(iter(change.values()))) in str(caught.value)
    table = LatencyTable.from_measurements([measurement(), other], measurement().context)
    assert table.lookup(PART).latency_ms == pytest.approx(1.25)


def test_protocols_are_not_mixed_either() -> None:
    with pytest.raises(LatencyError, match="isolated, streamed"):
        LatencyTable.from_measurements([measurement(), measurement(protocol="streamed")])


def test_parts_that_were_timed_in_an_older_way_are_left_out_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(journal_path("host", tmp_path))
    journal.append(measurement(OTHER, 5.0, time="2024-01-01T00:00:00.000+00:00"))
    journal.append(measurement(PART, 3.0, protocol="rotating", time="2024-06-01T00:00:00.000+00:00"))
    assert list(load_table("host", tmp_path).cells) == [PART]
    said = capsys.readouterr().err
    assert "1 of 2 measurements" in said and "rotating" in said
    assert list(load_table("host", tmp_path, replace(CONTEXT, protocol="rotating")).cells) == [PART]


def test_a_cell_tells_how_the_device_drifted_meanwhile() -> None:
    drifted = LatencyTable.from_measurements([measurement(canary_ratio=1.3, steady=False)]).lookup(PART)
    assert (drifted.canary_ratio, drifted.steady) == (1.3, False)
    table = LatencyTable({PART: drifted})
    assert LatencyTable.from_records(table.to_records([PART]), 0.0, "").lookup(PART) == drifted
    older = [
        {key: value for key, value in table.to_records([PART])[0].items() if key not in ("canary_ratio", "steady")}
    ]
    assert LatencyTable.from_records(older, 0.0, "").lookup(PART).steady


def test_a_target_loads_what_was_measured_last_and_says_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(journal_path("host", tmp_path))
    journal.append(measurement(PART, 5.0, tvm_version="0.26", time="2024-01-01T00:00:00.000+00:00"))
    journal.append(measurement(PART, 3.0, time="2024-06-01T00:00:00.000+00:00"))
    assert load_table("host", tmp_path).lookup(PART).latency_ms == pytest.approx(2.75)
    assert "1 of 2 measurements" in capsys.readouterr().err


def test_a_target_without_measurements_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="tvmfbnet tune --target phone"):
        load_table("phone", tmp_path)
    for name in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(UserError, match="bad target name"):
            target_folder(name, tmp_path)


def test_the_logs_folder_follows_argument_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVMFBNET_TUNING_LOGS", raising=False)
    assert target_folder("host") == Path("tuning_logs/host")
    monkeypatch.setenv("TVMFBNET_TUNING_LOGS", "/elsewhere")
    assert target_folder("host") == Path("/elsewhere/host")
    assert target_folder("host", Path("here")) == Path("here/host")


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
def test_a_table_survives_its_file(tmp_path: Path, file: str) -> None:
    table = LatencyTable.from_measurements(measured_space())
    table = LatencyTable({**table.cells, PART: Cell(1 / 3, 0.1, "predicted")}, table.overhead_ms, "t")
    write_table(table, tmp_path / file)
    back = read_table(tmp_path / file)
    assert back.overhead_ms == table.overhead_ms
    assert list(back.cells) == list(table.cells)
    for part, cell in table.cells.items():
        reread = back.cells[part]
        assert (reread.latency_ms, reread.spread_ms, reread.source) == (cell.latency_ms, cell.spread_ms, cell.source)


def test_a_json_table_keeps_all_of_a_cell_and_says_that_it_is_corrected(tmp_path: Path) -> None:
    table = LatencyTable.from_measurements([measurement(canary_ratio=1.25, steady=False)])
    table = replace(table, correction="x1.050", overhead_ms=-0.5)
    write_table(table, tmp_path / "t.json")
    back = read_table(tmp_path / "t.json")
    assert (back.cells, back.overhead_ms, back.correction) == (table.cells, table.overhead_ms, table.correction)
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(UserError, match=r"only be written as \.json"):
            write_table(table, tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("file", ["t.csv", "t.parquet", "t.json"])
def test_a_table_tells_its_dtype_except_float32_which_files_never_named(tmp_path: Path, file: str) -> None:
    measured = {name: [measurement(dtype=name)] for name in ("float32", "int8")}
    for dtype, measurements in measured.items():
        write_table(LatencyTable.from_measurements(measurements), tmp_path / file)
        assert (b"dtype" in (tmp_path / file).read_bytes()) is (dtype == "int8")
        back = read_table(tmp_path / file)
        assert (back.data_type.name, back.stated_dtype) == (dtype, "int8" if dtype == "int8" else "")
        write_table(back, tmp_path / f"again-{file}")
        assert read_table(tmp_path / f"again-{file}").data_type.name == dtype


@pytest.mark.parametrize(
    ("second", "said"), [("float16", "different dtypes (int8, float16)"), ("", "(int8, none)"), ("int4", "int4")]
)
def test_a_table_of_several_or_unknown_dtypes_is_refused_in_one_line(tmp_path: Path, second: str, said: str) -> None:
    first = "int8" if second != "int4" else "int4"
    rows = [f"block,k3_e1,64,64,14,14,1,1.0,{first}", f"block,k3_e6,64,64,14,14,1,1.0,{second}"]
    (tmp_path / "t.csv").write_text("\n".join(["part,block,cin,cout,height,width,stride,latency_ms,dtype", *rows]))
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        read_table(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_an_imported_table_is_not_used_for_another_dtype_than_it_states(tmp_path: Path) -> None:
    write_table(LatencyTable({PART: Cell(1.0)}, stated_dtype="int8"), table_path("pixel3", tmp_path))
    assert load_table("pixel3", tmp_path).data_type.name == "int8"
    assert load_table("pixel3", tmp_path, dtype="int8").cells
    with pytest.raises(LatencyError, match=r"imported in int8, not in float32: name it pixel3,dtype=int8, or"):
        load_table("pixel3", tmp_path, dtype="float32")
    with pytest.raises(LatencyError, match="imported in int8, not in float32"):
        load_table("pixel3", tmp_path, CONTEXT)
    table = load_table("pixel3", tmp_path)
    require_stated_dtype(table, "int8", "t.csv")
    require_stated_dtype(replace(table, stated_dtype=""), "float16", "t.csv")
    with pytest.raises(
        LatencyError, match=r"^t\.csv has latencies in int8, not in float16: use it with dtype int8, or"
    ):
        require_stated_dtype(table, "float16", "t.csv")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells": []}, "cells"),
        ({"dtype": "int4"}, "int4"),
        ({"cells": [{**PART.to_dict(), "latency_ms": 1.0}] * 2}, "cell 2: .* is given twice"),
        ({"cells": [{**PART.to_dict(), "latency_ms": -1.0}]}, "from 0 to"),
        ({"cells": [{**PART.to_dict(), "latency_ms": 1.0, "source": "guessed"}]}, "source"),
        ({"cells": [{**PART.to_dict(), "block": "k4_e1", "latency_ms": 1.0}]}, "cell 1: .*k4_e1"),
        ({"cells": [{**OVERHEAD_PART.to_dict(), "latency_ms": 1.0}]}, "overhead_ms has the overhead"),
        ({"overhead_ms": "much"}, "overhead_ms"),
    ],
)
def test_a_json_table_with_a_mistake_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    good = {"target": "t", "overhead_ms": 0.1, "cells": [{**PART.to_dict(), "latency_ms": 1.0}]}
    (tmp_path / "t.json").write_text(json.dumps({**good, **changes}))
    with pytest.raises(UserError, match=said) as caught:
        read_table(tmp_path / "t.json")
    assert "\n" not in str(caught.value) and "t.json" in str(caught.value)


def test_measured_and_simulated_latencies_never_share_a_table(tmp_path: Path) -> None:
    cells = {PART: Cell(1.0), OTHER: Cell(1.0, source="simulated")}
    with pytest.raises(LatencyError, match="mixes measured and simulated"):
        LatencyTable(cells)
    simulated = LatencyTable({part: replace(cell, source="simulated") for part, cell in cells.items()}, 0.1)
    for name in ("t.csv", "t.parquet", "t.json"):
        write_table(simulated, tmp_path / name)
        assert read_table(tmp_path / name).is_simulated
    assert "overhead,call,1,1,1,1,1,0.1,0.0,simulated" in (tmp_path / "t.csv").read_text()
    mixed = (tmp_path / "t.csv").read_text().replace("1.0,0.0,simulated", "1.0,0.0,measured", 1)
    (tmp_path / "t.csv").write_text(mixed)
    content = json.loads((tmp_path / "t.json").read_text())
    content["cells"][0]["source"] = "measured"
    (tmp_path / "t.json").write_text(json.dumps(content))
    for name, simulated_rows in (("t.csv", 2), ("t.json", 1)):  # the overhead has a row in CSV
        problem = f"{name}: 1 measured and {simulated_rows} simulated latencies; keep them in two"
        with pytest.raises(ConfigError, match=problem):
            read_table(tmp_path / name)


def test_no_share_of_a_simulated_net_counts_as_measured() -> None:
    cells = {part: Cell(1.0, source="simulated") for part in SPACE.distinct_parts()}
    predicted = SPACE.fixed_parts()[0]
    table = LatencyTable({**cells, predicted: Cell(1.0, source="predicted")}, 1.0)
    shares = table.source_shares(ARCH, SPACE)
    assert table.measured_share(ARCH, SPACE) == shares["measured"] == 0.0
    assert shares["predicted"] == pytest.approx(1.0 / table.arch_ms(ARCH, SPACE))
    assert sum(shares.values()) == pytest.approx(1.0)


HEADER = "part,block,cin,cout,height,width,stride,latency_ms\n"


def test_an_identity_skips_own_row_is_kept_and_used(tmp_path: Path) -> None:
    write_table(LatencyTable.from_measurements(measured_space()), tmp_path / "t.csv")
    plain = read_table(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open("a") as stream:
        stream.write("block,skip,16,16,16,16,1,0.125,0,measured\n")
    assert read_table(tmp_path / "t.csv").arch_ms(ARCH, SPACE) == pytest.approx(plain.arch_ms(ARCH, SPACE) + 0.125)


def test_every_problem_of_a_foreign_table_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    rows = [
        "block,k3_e1,16,16,112,112,1,1.0",
        "block,k3_e1,16,16,112,112,1,2.0",
        "block,k4_e1,16,16,112,112,1,1.0",
        "block,k3_e1,16,24,112,112,2,soon",
        "block,k3_e1,16,24,112,112,2,-1",
        "block,k3_e1,16,24,112,112,2,nan",
        "block,k3_e1,0,24,112,112,2,1",
        "wing,k3_e1,16,24,112,112,2,1",
    ]
    file.write_text(HEADER + "\n".join(rows) + "\n")
    with pytest.raises(ConfigError) as caught:
        read_table(file)
    lines = [problem.split(":")[0] for problem in caught.value.problems]
    assert lines == [f"line {number}" for number in range(3, 10)]


def test_problems_of_a_parquet_table_are_named_with_their_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    good = {**PART.to_dict(), "latency_ms": 1.0}
    rows = [good, {**good, "block": "k7_e3"}, {**good, "block": "k4_e1"}, {**good, "cin": None, "block": "k3_e1"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "bad.parquet")
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path / "bad.parquet")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["row 3", "row 4"]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match="not a Parquet file") as caught:
        read_table(tmp_path / "broken.parquet")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"\.csv, \.parquet or \.json"):
        read_table(tmp_path / "table.xlsx")


def test_blocks_outside_the_papers_nine_are_taken_and_zeros_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text(HEADER + "block,k7_e3,16,16,8,8,1,0.5\nblock,k9_e2_g4,16,16,8,8,1,0\nblock,skip,16,16,8,8,1,0\n")
    assert [part.block for part in read_table(file).cells] == ["k7_e3", "k9_e2_g4", "skip"]
    said = capsys.readouterr().err
    assert "1 part(s) that compute something 0 ms" in said and "k9_e2_g4" in said


@pytest.mark.parametrize("text", ["", HEADER, "part,block\nblock,skip\n", "\0\0\0", "\xff"])
def test_what_is_no_latency_table_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.csv") as caught:
        read_table(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match=r"absent\.csv"):
        read_table(tmp_path / "absent.csv")


@pytest.mark.skipif(not DEVICE_TABLES.is_dir(), reason=f"real device tables are not at {DEVICE_TABLES}")
@pytest.mark.parametrize("device", ["pixel3", "raspi4", "edgegpu"])
def test_a_real_phones_table_gives_the_latency_of_the_published_net(device: str) -> None:
    table = read_table(DEVICE_TABLES / f"fbnet224_{device}.csv")
    arch, space = resolve_arch("fbnet_c", load_space("fbnet"))
    assert len(table.cells) == 112
    assert table.missing(space.distinct_parts()) == ()
    skip = space.layers[2].cell("skip")
    parts = [*space.parts_of(arch), skip]
    assert arch.blocks.count("skip") == 1
    assert table.arch_ms(arch, space) == pytest.approx(sum(table.cells[part].latency_ms for part in parts))
    assert table.measured_share(arch, space) == 1.0


def with_energies(space, path):
    """A table of a space on file, each part with 2 mJ a millisecond, an identity skip without."""
    lines = ["part,block,cin,cout,height,width,stride,latency_ms,energy_uj,energy_spread_uj,energy_source"]
    for number, part in enumerate(space.distinct_parts(), start=1):
        sizes = [part.cin, part.cout, part.height, part.width, part.stride, number / 100, 20 * number, number, "rapl"]
        lines.append(",".join(map(str, [part.part, part.block, *sizes])))
    path.write_text("\n".join([*lines, "overhead,call,1,1,1,1,1,0.005,7,1,rapl"]) + "\n")
    return read_table(path)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_the_energy_of_parts_is_one_more_column(suffix, tmp_path):
    space = load_space("fbnet_mini@16")
    table = with_energies(space, tmp_path / "energies.csv")
    parts = {"stem", "block", "head_conv", "head_pool", "head_linear", "overhead"}
    assert {part.part for part in table.energies.by_part} == parts and table.energies.source == "rapl"
    assert table.energies.call == (pytest.approx(0.007), pytest.approx(0.001))
    assert all(table.energies.of(part)[0] == pytest.approx(2 * cell.latency_ms) for part, cell in table.cells.items())
    write_table(table, tmp_path / f"again.{suffix}")
    again = read_table(tmp_path / f"again.{suffix}")
    assert (again.energies, again.cells, again.overhead_ms) == (table.energies, table.cells, table.overhead_ms)
    record = json.loads(json.dumps(table_content(table, table.cells)))
    assert LatencyTable.from_record(record).energies == table.energies


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("energy_mj", "2000000000", "energy_mj is more than 1e\\+09 mJ"),
        ("energy_mj", "-1", "energy_mj must not be negative"),
        ("energy_mj,energy_spread_mj", ",0.1", "there is a spread of the energy, but no energy"),
        ("energy_mj,energy_source", ",rapl", "there is a source of the energy, but no energy"),
        ("energy_source", "rapl", "needs the column\\(s\\) energy_mj"),
        ("energy_spread_mj", "0.1", "needs the column\\(s\\) energy_mj"),
        ("energy_mj,energy_j", "1,1", "energy is given in mj and j; leave one column"),
    ],
)
def test_an_energy_that_cannot_be_is_refused(head, row, said, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(f"part,block,cin,cout,height,width,stride,latency_ms,{head}\nblock,k3_e1,16,16,8,8,1,0.1,{row}\n")
    with pytest.raises(ConfigError, match=said):
        read_table(path)
    path.write_text(
        "part,block,cin,cout,height,width,stride,latency_ms,energy_mj,energy_source\n"
        "block,k3_e1,16,16,8,8,1,0.1,1,rapl\noverhead,call,1,1,1,1,1,0.1,1,\n"
    )
    with pytest.raises(ConfigError, match="energies of different sources"):
        read_table(path)
