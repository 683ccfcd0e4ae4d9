"""What a simulated device takes is called simulated at every seam, and can never count as measured."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from latency_samples import CONTEXT, measured_in_both, measured_space, measurement
from typer.testing import CliRunner

from tvmfbnet.cli import latency as latency_cli
from tvmfbnet.errors import ConfigError, LatencyError
from tvmfbnet.latency.additivity import study
from tvmfbnet.latency.cells import Cell, cell_of
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import Measurement
from tvmfbnet.latency.mixed import DtypeTables
from tvmfbnet.latency.origin import LatencyOrigin, timed_latency, timed_of
from tvmfbnet.latency.regressor import LatencyRegressor, complete
from tvmfbnet.latency.repository import journal_path, load_table
from tvmfbnet.latency.sources.mixed import MixedSource
from tvmfbnet.latency.sources.registry import source_of
from tvmfbnet.latency.sources.source import latency_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table, write_table
from tvmfbnet.latency.verdict import Interval, Verdict
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.registry import load_space

SPACE = load_space("fbnet_mini")
ARCH = parse_arch("k3_e1,skip/k5_e3,skip,k3_e6/skip,skip", SPACE)


def simulated(items: Sequence[Measurement]) -> list[Measurement]:
    return [item.model_copy(update={"source": "simulated"}) for item in items]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    journal = Journal(journal_path("sim", tmp_path / "logs"))
    for item in simulated(measured_space()):
        journal.append(item.model_copy(update={"target": "sim"}))
    return tmp_path / "logs"


def test_only_lines_of_simulated_measurements_say_what_they_are_and_older_lines_stay_readable(tmp_path: Path) -> None:
    journal, measured = Journal(tmp_path / "latency.jsonl"), measurement()
    older = {name: value for name, value in measured.model_dump(mode="json").items() if name != "source"}
    journal.path.write_text(json.dumps(older) + "\n")
    journal.append(measured)
    journal.append(simulated([measured])[0])
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert ["source" in line for line in lines] == [False, False, True] and lines[1] == older
    assert [item.source for item in journal.read()] == ["measured", "measured", "simulated"]
    assert journal.read()[1] == measured


def test_one_simulated_measurement_makes_a_simulated_cell() -> None:
    items = [measurement(latency_ms=1.0, protocol="in_net"), measurement(latency_ms=2.0, protocol="in_net")]
    assert cell_of(items).source == "measured"
    for mixed in ([items[0], *simulated(items[1:])], [*simulated(items[:1]), items[1]]):
        assert cell_of(mixed).source == "simulated"


def test_a_target_that_is_simulated_gives_a_simulated_table(logs: Path) -> None:
    table = latency_table(source_of("sim", logs), SPACE)
    assert table.is_simulated and table.basis == "simulated"
    assert {cell.source for cell in table.cells.values()} == {"simulated"}
    assert table.measured_share(ARCH, SPACE) == 0.0
    assert table.source_shares(ARCH, SPACE)["simulated"] == 1.0
    assert table.origin.word == "simulated"
    assert table.origin.describe() == "simulated on sim (a model, no device)"
    assert latency_costs(table, SPACE).measured_share([0] * len(SPACE.layers)) == 0.0


def test_a_table_never_holds_both_not_even_in_its_conversions_or_by_its_origin() -> None:
    parts = SPACE.distinct_parts()[:2]
    mixed = {parts[0]: Cell(1.0), parts[1]: Cell(1.0, source="simulated")}
    measured = {parts[0]: Cell(1.0)}
    for make in (
        lambda: LatencyTable(mixed),
        lambda: LatencyTable(measured, conversions={parts[1]: mixed[parts[1]]}),
        lambda: LatencyTable(measured, origin=LatencyOrigin("target", "sim", simulated=True)),
        lambda: replace(LatencyTable({parts[1]: mixed[parts[1]]}), cells=measured),
    ):
        with pytest.raises(LatencyError, match="mixes measured and simulated"):
            make()


def test_measurements_of_both_kinds_never_share_a_table() -> None:
    items = measured_space()
    with pytest.raises(LatencyError, match="mixes measured and simulated"):
        LatencyTable.from_measurements([*items[:-1], *simulated(items[-1:])])


def test_what_was_predicted_from_simulated_cells_stays_on_a_simulated_basis_in_every_file(
    logs: Path, tmp_path: Path
) -> None:
    whole = load_table("sim", logs)
    few = dict(list(whole.cells.items())[:20])
    filled = complete(replace(whole, cells=few), SPACE.distinct_parts())
    predicted = replace(filled, cells={part: cell for part, cell in filled.cells.items() if cell.source == "predicted"})
    assert predicted.cells and predicted.basis == "simulated"
    for overhead_ms in (0.0, 0.2):
        for name in ("t.csv", "t.json", "t.parquet"):
            write_table(replace(predicted, overhead_ms=overhead_ms), tmp_path / name)
            again = source_of(str(tmp_path / name)).load()
            assert again.is_simulated and again.origin.simulated and again.basis == "simulated", name
            assert read_table(tmp_path / name).cells == predicted.cells


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("simulated", "measured", 1), "1 measured and 46 simulated"),  # the overhead's row
        (lambda text: text.replace(",simulated", ",", 1), "1 measured and 46 simulated"),
    ],
)
def test_a_file_whose_overhead_is_of_the_other_kind_is_refused(logs: Path, tmp_path: Path, change, problem) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "t.csv"
    write_table(load_table("sim", logs), path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=problem):
        read_table(path)


def test_a_json_table_that_says_it_is_simulated_may_not_hold_measured_cells(logs: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_table(load_table("sim", logs), path)
    path.write_text(path.read_text().replace('"source": "simulated"', '"source": "measured"'))
    with pytest.raises(ConfigError, match=r"says that it is simulated, and has 4[0-9] measured"):
        read_table(path)


def test_mixed_dtypes_of_a_simulated_target_are_simulated(tmp_path: Path) -> None:
    measured_in_both("host", tmp_path / "measured")
    for item in simulated(Journal(journal_path("host", tmp_path / "measured")).read()):
        Journal(journal_path("host", tmp_path)).append(item)
    table = MixedSource("host", tmp_path).load(SPACE.distinct_parts())
    assert table.is_simulated and {cell.source for cell in table.cells.values()} == {"simulated"}
    assert table.origin.describe() == "simulated in float32 and int8 on host (a model, no device)"
    tables = MixedSource("host", tmp_path).tables()
    plain = {part: replace(cell, source="measured") for part, cell in tables.float32.cells.items()}
    measured = LatencyTable(plain, 0.1, "host", context=tables.float32.context)
    with pytest.raises(LatencyError, match="simulated in one dtype and measured in the other"):
        DtypeTables(measured, tables.int8)


def test_a_regressor_of_simulated_latencies_says_so_and_learns_from_no_others(logs: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    options = ["fit", "--target", "sim", "--tuning-logs", str(logs), "--splits", "1", "--out", str(model), "--json"]
    done = CliRunner().invoke(latency_cli.app, options, catch_exceptions=False)
    assert json.loads(done.stdout)["labels"] == "simulated" and json.loads(model.read_text())["labels"] == "simulated"
    assert LatencyRegressor.load(model).labels == "simulated"
    parts = SPACE.distinct_parts()[:20]
    LatencyRegressor().fit(parts, [float(number + 1) for number in range(20)]).save(model)
    assert "labels" not in json.loads(model.read_text()) and LatencyRegressor.load(model).labels == "measured"


def test_latency_show_counts_them_apart(logs: Path) -> None:
    words = ["show", "--target", "sim", "--space", "fbnet_mini", "--tuning-logs", str(logs), "--json"]
    shown = json.loads(CliRunner().invoke(latency_cli.app, words, catch_exceptions=False).stdout)
    assert (shown["measured"], shown["simulated"], shown["drift"]["unsteady"]) == (0, len(shown["cells"]), 0)


def test_a_simulated_verdict_is_exact_and_never_says_measured() -> None:
    interval = Interval.exact(7.0, 1)
    for target_ms, kind in ((8.0, "met"), (7.0, "met"), (6.999, "missed")):
        verdict = Verdict(target_ms, interval, source="simulated", chosen_on_simulated=True)
        assert verdict.kind == kind and interval.noise == 0
        assert verdict.describe().endswith("; simulated 7 ms (a model, no device)")
        assert "measured" not in verdict.describe() + verdict.advice()
        record = verdict.to_dict()
        assert (record["measured_ms"], record["simulated_ms"]) == (None, 7.0)
    measured = Verdict(8.0, interval).to_dict()
    assert measured["measured_ms"] == 7.0 and "simulated_ms" not in measured


def test_records_of_both_kinds_are_told_apart() -> None:
    assert timed_of(timed_latency("measured", 2.0)) == ("measured", 2.0)
    assert timed_of(timed_latency("simulated", 2.0)) == ("simulated", 2.0)
    assert timed_of({}) == ("measured", None)


def test_whole_nets_that_were_simulated_are_not_called_measured(logs: Path) -> None:
    table = load_table("sim", logs)
    archs = [Arch(tuple(layer.blocks[number % 8] for layer in SPACE.layers)) for number in range(8)]
    nets = {format_arch(arch, SPACE): 1.1 * table.arch_ms(arch, SPACE) for arch in archs}
    record = study(table, SPACE, nets).to_dict()
    assert record["source"] == "simulated"
    assert all(net["measured_ms"] is None and net["simulated_ms"] > 0 for net in record["records"])
    plain = study(LatencyTable.from_measurements(measured_space()), SPACE, nets).to_dict()
    assert plain["source"] == "measured" and all(net["measured_ms"] > 0 for net in plain["records"])


def test_contexts_do_not_change_by_the_label() -> None:
    assert simulated([measurement()])[0].context == measurement().context
    assert "source" not in CONTEXT.to_dict()
