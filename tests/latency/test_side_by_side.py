"""Several latency tables side by side: shared parts, rank correlations, labels, and the figure of operators."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from latency_samples import DEVICE_TABLES, measured_space
from typer.testing import CliRunner, Result

from tvmfbnet.cli import latency
from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.latency.cells import PREDICTED, SIMULATED, Cell
from tvmfbnet.latency.side_by_side import matching, side_by_side
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.report.canvas import NARROW
from tvmfbnet.report.operators import DEVICE_COLOURS, default_operators, operator_bars
from tvmfbnet.space.space import NetPart

PROCESSOR = "simulated:gflops=16,gbps=8"


def table(name: str, scale: float = 1.0, **odd: float) -> LatencyTable:
    """A million MACs in 0.1 ms; the blocks that are named in ``odd`` take that much longer."""
    cells = LatencyTable.from_measurements(measured_space()).cells
    changed = {part: Cell(scale * odd.get(part.block, 1.0) * cell.latency_ms, 0.01) for part, cell in cells.items()}
    return LatencyTable(changed, name=name)


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    """Files of three devices: the second is half as fast, the third ranks a block differently."""
    files = []
    for made in (table("fast"), table("slow", 2.0), table("other", 0.5, k5_e6=9.0)):
        files.append(tmp_path / f"{made.name}.csv")
        write_table(made, files[-1])
    return files


def compare(*words: object) -> Result:
    result = CliRunner().invoke(latency.app, ["compare", *map(str, words)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def heads(printed: str) -> list[list[str]]:
    """The column heads of every printed table."""
    lines = [line for line in printed.splitlines() if line.startswith("┃")]
    return [[head.strip() for head in line.split("┃")[1:-1]] for line in lines]


def test_devices_that_differ_in_speed_alone_rank_alike_and_disagree_on_nothing() -> None:
    compared = side_by_side([("a", table("fast")), ("b", table("slow", 3.0))])
    assert compared.spearman == ((1.0, 1.0), (1.0, pytest.approx(1.0)))
    assert compared.median_ratios == (1.0, pytest.approx(3.0))
    assert {round(row.disagreement, 9) for row in compared.parts} == {1.0}
    assert compared.means_ms[1] == pytest.approx(3 * compared.means_ms[0])


def test_parts_come_first_whose_cost_differs_most_between_any_two_devices() -> None:
    compared = side_by_side([("a", table("a", k3_e1=0.25)), ("b", table("b", 7.0)), ("c", table("c", k3_e1=2.0))])
    first = compared.by_disagreement[0]
    assert first.part.block == "k3_e1" and first.disagreement == pytest.approx(8.0)
    assert first.ratios == (1.0, pytest.approx(28.0), pytest.approx(8.0))
    assert compared.spearman[0][2] < 1


def test_a_part_that_one_table_lacks_is_compared_in_none_and_is_named() -> None:
    whole, lacking = table("whole"), table("lacking")
    gone = next(part for part in whole.cells if part.block == "k5_e6")
    cells = {part: cell for part, cell in lacking.cells.items() if part != gone}
    compared = side_by_side([("a", whole), ("b", replace(lacking, cells=cells)), ("c", table("c"))])
    assert gone not in {row.part for row in compared.parts}
    assert compared.unshared() == {"whole": [gone], "lacking": [], "c": [gone]}


def test_tables_of_one_name_are_called_what_the_user_wrote_and_none_is_named_twice() -> None:
    one, other = table("host"), table("host", 2.0)
    assert side_by_side([("host,dtype=float32", one), ("b.csv", other)]).names == ("host,dtype=float32", "b.csv")
    with pytest.raises(UserError, match="host is named twice"):
        side_by_side([("host", one), ("host", other)])
    with pytest.raises(LatencyError, match=r"share 0 part\(s\)"):
        side_by_side([("a", one), ("b", LatencyTable({NetPart("block", "k3_e1", 1, 1, 1, 1, 1): Cell(1.0)}))])


def test_three_tables_have_a_column_each_ratios_to_the_first_and_a_matrix(tables: list[Path]) -> None:
    printed = compare(*tables, "-n", 2).stdout
    columns, matrix = heads(printed)
    assert columns == ["part", "fast, µs", "slow, µs", "other, µs", "slow / fast", "other / fast"]
    assert matrix == ["", "fast", "slow", "other"]
    assert "median ratio to fast: 2 (slow), 0.5 (other); not in every table: none" in printed
    assert printed.count("block/k5_e6/") == 2

    shown = json.loads(compare(*tables, "--json").stdout)
    assert [item["name"] for item in shown["tables"]] == ["fast", "slow", "other"]
    assert shown["spearman"][0][1] == pytest.approx(1) and shown["spearman"][1][2] == shown["spearman"][2][1] < 1
    assert len(shown["parts"]) == shown["n"] and shown["parts"][0]["name"].startswith("block/k5_e6/")
    assert shown["parts"][0]["ratios"] == pytest.approx([1, 2, 4.5])


def test_two_tables_keep_the_form_that_they_had(tables: list[Path]) -> None:
    shown = json.loads(compare(*tables[:2], "--json").stdout)
    assert {"first", "second", "median_ratio", "spearman", "n", "parts", "only_first", "only_second"} <= shown.keys()
    assert set(shown["parts"][0]) == {"name", "first_ms", "second_ms", "ratio"} and len(shown["parts"]) == shown["n"]
    chosen = json.loads(compare(*tables[:2], "--blocks", "k5_*", "--json").stdout)
    assert {part["name"].split("/")[1][:3] for part in chosen["parts"]} == {"k5_"}
    assert (chosen["n"], chosen["spearman"]) == (shown["n"], shown["spearman"])


def test_a_simulated_table_is_labelled_wherever_it_shows(tables: list[Path]) -> None:
    cells = {part: replace(cell, source=SIMULATED) for part, cell in table("sim_core").cells.items()}
    write_table(LatencyTable(cells, name="sim_core"), tables[0].with_name("sim_core.csv"))
    named = (*tables[:2], tables[0].with_name("sim_core.csv"))
    columns, matrix = heads(compare(*named).stdout)
    assert columns[3] == "sim_core (simulated), µs" and columns[-1] == "sim_core (simulated) / fast"
    assert matrix[-1] == "sim_core (simulated)"
    assert [item["basis"] for item in json.loads(compare(*named, "--json").stdout)["tables"]] == [
        *("measured", "measured", "simulated")
    ]
    compared = side_by_side([("a", table("a")), ("s", LatencyTable(cells, name="sim_core"))])
    marks = operator_bars(compared, default_operators(compared)).legends[0]
    assert [text.get_text().split(":")[0] for text in marks.get_texts()] == ["a", "sim_core (simulated)"]
    solid, pale = (patch.get_facecolor()[3] for patch in marks.get_patches())
    assert solid == 1 > pale
    # One that computes its latencies is asked for the parts of the others, wherever it stands.
    assert json.loads(compare(PROCESSOR, *tables[:2], "--json").stdout)["n"] > 40
    with pytest.raises(UserError, match="have no parts of their own"):
        compare(PROCESSOR, PROCESSOR, PROCESSOR)


def test_the_figure_has_one_panel_per_layer_and_one_bar_per_device_and_block() -> None:
    compared = side_by_side([("a", table("a")), ("b", table("b", 2.0)), ("c", table("c", k3_e1=3.0))])
    rows = default_operators(compared)
    assert len({row.part.block for row in rows}) > 4 and {row.part.part for row in rows} == {"block"}
    figure = operator_bars(compared, rows)
    assert len(figure.axes) == 4
    bars = [bar for axes in figure.axes for bar in axes.patches]
    assert len(bars) == 3 * len(rows)
    first = len(figure.axes[0].patches) // 3
    drawn = [bars[column * first].get_height() for column in range(3)]
    means_ms = compared.means_ms
    assert drawn == pytest.approx([cell.latency_ms / mean for cell, mean in zip(rows[0].cells, means_ms, strict=True)])
    assert all(axes.get_ylabel() == "relative to mean" for axes in figure.axes)
    absolute = operator_bars(compared, rows, absolute=True)
    assert all(axes.get_ylabel() in ("latency, ms", "latency, µs") for axes in absolute.axes)
    turned = operator_bars(compared, rows, canvas=NARROW).axes[0].get_xticklabels()
    assert {label.get_rotation() for label in turned} == {35.0}


def test_few_blocks_of_many_layers_share_a_panel_and_predicted_ones_are_hatched() -> None:
    guessed = table("a")
    cells = {part: replace(cell, source=PREDICTED) for part, cell in guessed.cells.items()}
    compared = side_by_side([("a", replace(guessed, cells=cells)), ("b", table("b"))])
    figure = operator_bars(compared, matching(compared.parts, ["k3_e1"]))
    assert len(figure.axes) <= 2
    assert "→" in figure.axes[0].get_xticklabels()[0].get_text()
    assert {bar.get_hatch() for bar in figure.axes[0].patches} == {"////", None}
    assert figure.legends[0].get_texts()[-1].get_text() == "hatched: predicted"


def test_the_figure_is_written_as_its_name_says(tables: list[Path], tmp_path: Path) -> None:
    compare(*tables, "--figure", tmp_path / "operators.png")
    content = (tmp_path / "operators.png").read_bytes()
    assert struct.unpack(">II", content[16:24])[0] > 800
    compare(*tables[:2], "--figure", tmp_path / "operators.svg", "--blocks", "k3_*", "--absolute")
    text = (tmp_path / "operators.svg").read_text()
    assert "latency, " in text and "k5_e1" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--blocks", "k9_*"), "no shared part matches --blocks 'k9_\\*'; try k3_"),
        (("--absolute",), "--absolute is about --figure"),
        (("--figure", "operators.jpg"), "a figure needs a name ending in"),
        (("--arch", "skip", "--space", "fbnet_mini"), "name two tables"),
    ],
)
def test_bad_input_is_refused(tables: list[Path], options: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compare(*tables, *options)


def test_more_tables_than_colours_are_listed_but_not_drawn(tmp_path: Path) -> None:
    many = side_by_side([(name, table(name)) for name in "abcdefghi"])
    assert len(many.names) == len(DEVICE_COLOURS) + 1
    with pytest.raises(UserError, match="up to 8 tables, not 9"):
        operator_bars(many, default_operators(many))


@pytest.mark.skipif(not DEVICE_TABLES.is_dir(), reason=f"no tables of real devices in {DEVICE_TABLES}")
def test_published_tables_rank_blocks_alike_on_two_arm_cpus_and_differently_on_a_gpu() -> None:
    files = [DEVICE_TABLES / f"fbnet224_{device}.csv" for device in ("pixel3", "raspi4", "edgegpu")]
    shown = json.loads(compare(*files, "--json").stdout)
    assert shown["n"] == 106
    assert shown["spearman"][0][1] > 0.95 and shown["spearman"][0][2] < 0.7
