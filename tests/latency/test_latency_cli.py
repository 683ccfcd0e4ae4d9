"""The commands of spaces, archs and latency tables, run as a user runs them."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from latency_samples import measured_space, measurement, tuned_kernels
from typer.testing import CliRunner, Result

from tvmfbnet.cli import arch, latency, spaces
from tvmfbnet.errors import UserError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.repository import journal_path, kernels_path, load_table
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.space.space import NetPart

SPACE_PART = NetPart("block", "k5_e3", 64, 64, 14, 14, 1)
MINI_ARCH = "k3_e1,skip/k5_e3,skip,k3_e6/skip,skip"


def run(group: typer.Typer, *arguments: object) -> Result:
    result = CliRunner().invoke(group, [str(item) for item in arguments], catch_exceptions=True)
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def run_json(group: typer.Typer, *arguments: object) -> dict[str, object]:
    result = run(group, *arguments, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Measurements of a target ``host``: every third block of fbnet_mini."""
    journal = Journal(journal_path("host", tmp_path / "logs"))
    for item in measured_space(every=3):
        journal.append(item)
    return tmp_path / "logs"


def test_spaces_show_has_the_promised_keys() -> None:
    shown = run_json(spaces.app, "show", "fbnet")
    assert shown["size"] == 9**22
    assert shown["distinct_blocks"] == 102
    layers = shown["layers"]
    assert isinstance(layers, list)
    assert len(layers) == 22
    assert set(layers[0]) == {"index", "stage", "cin", "cout", "height", "width", "stride", "blocks"}
    assert "fbnet_mini" in run(spaces.app, "list").stdout
    assert "4,782,969 archs" in run(spaces.app, "show", "fbnet_mini").stdout


def test_arch_describe_has_the_promised_keys() -> None:
    shown = run_json(arch.app, "describe", "fbnet_c", "--space", "fbnet")
    assert (shown["params"], shown["macs"]) == (5572200, 384960160)
    assert str(shown["arch"]).startswith("k3_e1/k3_e6,skip,k3_e1,k3_e1/")
    assert "predicted_ms" not in shown
    narrow = run_json(arch.app, "describe", "fbnet_c", "--space", "fbnet", "--last-channels", 1504)
    assert narrow["params"] == 5572200 - (1984 - 1504) * (352 + 2 + 1000)


def test_arch_describe_predicts_and_says_how_much_was_measured(logs: Path) -> None:
    options = ("--space", "fbnet_mini", "--target", "host", "--tuning-logs", logs)
    shown = run_json(arch.app, "describe", MINI_ARCH, *options)
    assert isinstance(shown["predicted_ms"], float)
    assert isinstance(shown["measured_share"], float)
    assert 0 < shown["measured_share"] < 1
    assert "predicted latency" in run(arch.app, "describe", MINI_ARCH, *options).stdout


def test_arch_describe_takes_a_foreign_table(tmp_path: Path) -> None:
    table = LatencyTable.from_measurements(measured_space())
    write_table(table, tmp_path / "t.csv")
    shown = run_json(arch.app, "describe", MINI_ARCH, "--space", "fbnet_mini", "--latency-table", tmp_path / "t.csv")
    assert shown["measured_share"] == 1.0


def test_latency_show_tells_measured_from_predicted(logs: Path) -> None:
    options = ("--target", "host", "--space", "fbnet_mini", "--tuning-logs", logs)
    shown = run_json(latency.app, "show", *options)
    cells = shown["cells"]
    assert isinstance(cells, list)
    assert (shown["measured"], shown["predicted"], shown["missing"]) == (4 + 14, 28, [])
    assert {cell["source"] for cell in cells} == {"measured", "predicted"}
    assert all(cell["latency_ms"] > 0 for cell in cells)
    only = run_json(latency.app, "show", *options, "--measured-only")
    assert isinstance(only["missing"], list)
    assert (only["measured"], only["predicted"], len(only["missing"])) == (18, 0, 28)
    assert "18 measured, 28 predicted" in run(latency.app, "show", *options).stdout


def test_latency_show_names_the_drift_of_the_device(tmp_path: Path) -> None:
    journal = Journal(journal_path("host", tmp_path))
    journal.append(measurement(canary_ratio=1.024))
    journal.append(measurement(SPACE_PART, 2.0, canary_ratio=1.4, steady=False))
    options = ("--target", "host", "--space", "fbnet", "--measured-only", "--tuning-logs", tmp_path)
    shown = {cell["name"]: cell for cell in run_json(latency.app, "show", *options)["cells"]}  # type: ignore[attr-defined]
    assert (shown[SPACE_PART.name]["canary_ratio"], shown[SPACE_PART.name]["steady"]) == (1.4, False)
    assert run_json(latency.app, "show", *options)["drift"] == {"lowest": 1.024, "highest": 1.4, "unsteady": 1}
    said = run(latency.app, "show", *options).stdout
    assert said.count("+40.0") == 2 and "drift, %" in said  # in its row, and once in words
    assert said.count("+2.4") == 1 and "drift of the device while it timed these: +2.4 to +40.0 %, by a small" in said
    assert "1 part(s), those with a drift in the table, were timed while" in said


def test_latency_show_has_no_column_for_a_drift_that_mattered_nowhere(tmp_path: Path) -> None:
    journal = Journal(journal_path("host", tmp_path))
    journal.append(measurement(canary_ratio=0.852))
    journal.append(measurement(SPACE_PART, 2.0, canary_ratio=0.9))
    said = run(
        latency.app,
        *("show", "--target", "host", "--space", "fbnet", "--measured-only", "--tuning-logs", tmp_path),
    ).stdout
    assert said.count("drift") == 1 and "drift of the device while it timed these: -14.8 to -10.0 %" in said


def heads(printed: str) -> list[str]:
    """The head of the first table that a command printed."""
    line = next(line for line in printed.splitlines() if line.startswith("┃"))
    return [cell.strip() for cell in line.strip("┃").split("┃")]


def test_every_column_of_latencies_has_a_head_with_one_unit_for_the_table(logs: Path, tmp_path: Path) -> None:
    options = ("--target", "host", "--space", "fbnet_mini", "--tuning-logs", logs)
    shown = run(latency.app, "show", *options).stdout
    assert heads(shown) == ["part", "latency, µs", "spread, µs", "source", "tuning trials"]
    cells = {cell["name"]: cell for cell in run_json(latency.app, "show", *options)["cells"]}  # type: ignore[attr-defined]
    for row in (line for line in shown.splitlines() if line.startswith("│")):
        name, latency_text, *_ = (cell.strip() for cell in row.strip("│").split("│"))
        assert float(latency_text) == pytest.approx(1e3 * cells[name]["latency_ms"], rel=1e-3)
    described = run(arch.app, "describe", MINI_ARCH, *options).stdout
    assert heads(described)[-4:] == ["params, thousands", "MACs, millions", "latency, µs", "source"]
    assert heads(run(arch.app, "describe", MINI_ARCH, "--space", "fbnet_mini").stdout)[2:4] == [
        "channels",
        "input, pixels",
    ]
    slow = LatencyTable.from_measurements(measured_space())
    write_table(
        replace(slow, cells={p: replace(c, latency_ms=1e4 * c.latency_ms) for p, c in slow.cells.items()}),
        tmp_path / "s.csv",
    )
    assert run(latency.app, "import", tmp_path / "s.csv", "--target", "slow", "--tuning-logs", logs).exit_code == 0
    compared = run(latency.app, "compare", "host", "slow", "--tuning-logs", logs).stdout
    assert heads(compared) == ["part", "host, ms", "slow, ms", "slow / host", "/ median ratio"]


def test_the_blocks_of_a_space_are_printed_once_a_set_and_not_a_layer() -> None:
    shown = run(spaces.app, "show", "fbnet").stdout
    assert shown.count("k5_e6") == 1 and "block set 1: k3_e1 k3_e1_g2" in shown
    assert heads(shown)[-1] == "block set"


def test_the_notation_of_archs_and_blocks_is_explained_where_archs_are_asked_for() -> None:
    text = " ".join(run(arch.app, "--help").stdout.split())
    for told in (
        "stages by `/`",
        "k<kernel>_e<expansion>",
        "_g<groups>",
        "_se for",
        "_hswish",
        "skip leaves the layer out",
    ):
        assert told in text


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_goes_out_and_comes_back_under_another_name(logs: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"out.{form}"
    export = ("export", "--target", "host", "--out", file, "--space", "fbnet_mini", "--tuning-logs", logs)
    assert run(latency.app, *export).exit_code == 0
    imported = ("import", file, "--target", "copy", "--tuning-logs", logs)
    assert run(latency.app, *imported).exit_code == 0
    assert (logs / "copy" / "table.csv").exists()
    with pytest.raises(UserError, match="--replace"):
        run(latency.app, *imported)
    assert run(latency.app, *imported, "--replace").exit_code == 0
    with pytest.raises(UserError, match="measurements of its own"):
        run(latency.app, "import", file, "--target", "host", "--tuning-logs", logs)
    ours, theirs = (
        run_json(latency.app, "show", "--target", name, "--space", "fbnet_mini", "--tuning-logs", logs)
        for name in ("host", "copy")
    )
    keep = ("name", "latency_ms", "source")
    for mine, other in zip(ours["cells"], theirs["cells"], strict=True):  # type: ignore[call-overload]
        assert [mine[key] for key in keep] == [other[key] for key in keep]
    assert ours["overhead_ms"] == theirs["overhead_ms"]


def test_latency_fit_scores_and_saves(logs: Path, tmp_path: Path) -> None:
    options = ("--target", "host", "--tuning-logs", logs, "--splits", 3, "--seed", 1)
    shown = run_json(latency.app, "fit", *options, "--out", tmp_path / "model.json")
    assert list(shown) == ["mape", "within_10", "spearman", "coverage_90", "baseline_mape", "n"]
    assert shown["n"] == 18
    assert (tmp_path / "model.json").exists()
    assert run_json(latency.app, "fit", *options) == shown
    shape_out = run_json(latency.app, "fit", *options, "--score", "shape-out")
    assert shape_out["mape"] != shown["mape"]
    assert "each layer shape held out" in run(latency.app, "fit", *options, "--score", "shape-out").stdout


def test_latency_fit_knows_the_kernels_of_tuned_blocks_unless_told_otherwise(logs: Path) -> None:
    options = ("--target", "host", "--tuning-logs", logs, "--splits", 3)
    by_shape = run_json(latency.app, "fit", *options)
    newest = Journal(journal_path("host", logs)).read()[-1].context
    table = load_table("host", logs)
    kernel_ms = {part: cell.latency_ms / 1.2 for part, cell in table.cells.items()}
    tuned_kernels(kernels_path("host", logs), newest, kernel_ms)
    by_kernels = run_json(latency.app, "fit", *options)
    assert by_kernels["mape"] < 0.01 < by_shape["mape"]
    assert run_json(latency.app, "fit", *options, "--shapes-only") == by_shape
    assert "from tuned kernels" in " ".join(run(latency.app, "fit", *options).stdout.split())


def test_latency_fit_uses_the_kernel_times_that_there_are(logs: Path) -> None:
    options = ("--target", "host", "--tuning-logs", logs, "--splits", 3)
    by_shape = run_json(latency.app, "fit", *options)
    newest = Journal(journal_path("host", logs)).read()[-1].context
    table = load_table("host", logs)
    most_parts = dict(list({part: cell.latency_ms / 1.2 for part, cell in table.cells.items()}.items())[2:])
    tuned_kernels(kernels_path("host", logs), newest, most_parts)
    assert run_json(latency.app, "fit", *options)["mape"] < by_shape["mape"]  # type: ignore[operator]
    said = " ".join(run(latency.app, "fit", *options).stdout.split())
    assert "from tuned kernels (16 samples) and shapes" in said


def test_two_targets_are_shown_side_by_side(logs: Path, tmp_path: Path) -> None:
    table = LatencyTable.from_measurements(measured_space(every=3))
    cells = {part: Cell(2 * cell.latency_ms) for part, cell in table.cells.items()}
    odd = next(iter(part for part in cells if part.block == "k3_e1"))
    cells[odd] = Cell(20 * table.cells[odd].latency_ms)
    write_table(LatencyTable(cells), tmp_path / "t.csv")
    run(latency.app, "import", tmp_path / "t.csv", "--target", "slow", "--tuning-logs", logs)
    shown = run_json(latency.app, "compare", "host", "slow", "--tuning-logs", logs)
    assert shown["median_ratio"] == pytest.approx(2) and shown["n"] == 18
    assert shown["parts"][0]["name"] == odd.name  # type: ignore[index]
    assert shown["only_first"] == shown["only_second"] == []
    assert "median ratio 2" in run(latency.app, "compare", "host", "slow", "--tuning-logs", logs).stdout
    (tmp_path / "u.csv").write_text("part,block,cin,cout,height,width,stride,latency_ms\nblock,k7_e3,8,8,4,4,1,1\n")
    run(latency.app, "import", tmp_path / "u.csv", "--target", "other", "--tuning-logs", logs)
    with pytest.raises(UserError, match="nothing to compare"):
        run(latency.app, "compare", "host", "other", "--tuning-logs", logs)


@pytest.mark.parametrize(
    ("group", "arguments", "said"),
    [
        (latency.app, ["fit"], "either --target or --table"),
        (
            latency.app,
            ["show", "--target", "nobody", "--space", "fbnet"],
            "nothing was measured for target nobody",
        ),
        (
            latency.app,
            ["export", "--target", "host", "--out", "table.csv"],
            "nothing was measured for target host",
        ),
        (latency.app, ["import", "absent.csv", "--target", "x"], "absent.csv"),
        (spaces.app, ["show", "nonsense"], "unknown space 'nonsense'"),
        (arch.app, ["describe", "skip", "--space", "fbnet"], "unknown arch 'skip'"),
        (arch.app, ["describe", "fbnet_a", "--target", "a", "--latency-table", "b"], "not both"),
        (arch.app, ["describe", "fbnet_a", "--latency-table", "host"], "a latency table is a .csv, .parquet or .json"),
        (arch.app, ["describe", "fbnet_a", "--latency-table", "simulated:gbps=1"], "gflops: Field required"),
        (latency.app, ["export", "--target", "simulated:gflops=1,gbps=1", "--out", "t.csv"], "give --space"),
        (latency.app, ["fit", "--target", "simulated:gflops=1,gbps=1"], "has none of its own"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: typer.Typer, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        run(group, *arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


SIMULATED = "simulated:gflops=16,gbps=8,call_us=20"


def test_a_simulated_processor_serves_every_command_and_is_always_labelled(logs: Path, tmp_path: Path) -> None:
    described = ("describe", MINI_ARCH, "--space", "fbnet_mini", "--latency-table", SIMULATED)
    shown = run_json(arch.app, *described)
    assert (shown["measured_share"], shown["source_shares"]) == (0.0, {"measured": 0, "predicted": 0, "simulated": 1})
    assert {layer["source"] for layer in shown["layers"] if layer["latency_ms"]} == {"simulated"}  # type: ignore[attr-defined]
    said = run(arch.app, *described)
    assert "100% of it simulated" in said.stdout and "no device took them" in " ".join(said.stderr.split())

    options = ("--target", SIMULATED, "--space", "fbnet_mini")
    table = run_json(latency.app, "show", *options)
    assert (table["measured"], table["predicted"], table["simulated"], table["missing"]) == (0, 0, 46, [])
    assert "46 simulated, 0 predicted, 0 missing" in run(latency.app, "show", *options).stdout

    run(latency.app, "export", *options, "--out", tmp_path / "sim.csv")
    text = (tmp_path / "sim.csv").read_text()
    assert ",simulated" in text and "measured" not in text
    run(latency.app, "import", tmp_path / "sim.csv", "--target", "sim", "--tuning-logs", logs)
    again = run_json(latency.app, "show", "--target", "sim", "--space", "fbnet_mini", "--tuning-logs", logs)
    assert (again["cells"], again["simulated"]) == (table["cells"], 46)


def test_a_target_is_compared_with_a_simulated_processor(logs: Path) -> None:
    for pair in (("host", SIMULATED), (SIMULATED, "host")):
        shown = run_json(latency.app, "compare", *pair, "--tuning-logs", logs)
        assert (shown["n"], shown["only_first"], shown["only_second"]) == (18, [], [])
        assert 0 < shown["spearman"] <= 1  # type: ignore[operator]
        assert [shown[name] for name in ("first", "second")] == list(pair)
        bases = {"host": "measured", SIMULATED: "simulated"}
        assert [shown[f"{place}_basis"] for place in ("first", "second")] == [bases[name] for name in pair]
        said = " ".join(run(latency.app, "compare", *pair, "--tuning-logs", logs).stdout.split())
        assert said.count("is simulated by a model; no device took its latencies") == 1
    with pytest.raises(UserError, match="have no parts of their own"):
        run(latency.app, "compare", SIMULATED, SIMULATED)


def half_speed(logs: Path, factor: float = 0.6) -> None:
    """Measurements of the same target in float16, last: most parts faster, depthwise blocks of one shape slower."""
    journal = Journal(journal_path("host", logs))
    for item in list(journal.read()):
        slower = item.part.block == "k5_e6"
        latency_ms = item.latency_ms * (1.5 if slower else factor)
        journal.append(measurement(item.part, latency_ms, overhead_ms=item.overhead_ms, dtype="float16"))


def test_tables_of_two_dtypes_of_one_target_never_mix(logs: Path, tmp_path: Path) -> None:
    before = run_json(latency.app, "show", "--target", "host", "--space", "fbnet_mini", "--tuning-logs", logs)
    named = ("show", "--target", "host,dtype=float16", "--space", "fbnet_mini", "--tuning-logs", logs)
    with pytest.raises(UserError, match="in float16, only in float32; run `tvmfbnet tune --target host,dt"):
        run(latency.app, *named)
    half_speed(logs)
    # What was measured last is float16, and whoever names no dtype still gets that of the target.
    after = run_json(latency.app, "show", "--target", "host", "--space", "fbnet_mini", "--tuning-logs", logs)
    assert after == before and after["dtype"] == "float32"
    half = run_json(latency.app, *named)
    assert half["dtype"] == "float16" and half["cells"] != before["cells"]
    option = run_json(
        latency.app, *(word.replace(",dtype=float16", "") for word in named[:-1]), logs, "--dtype", "float16"
    )
    assert option == half
    assert LatencyTable.load("host", tuning_logs=logs).data_type.name == "float32"
    assert LatencyTable.load("host,dtype=float16", tuning_logs=logs).data_type.name == "float16"
    with pytest.raises(UserError, match="--dtype is float16, but 'host,dtype=float32' names float32"):
        run(latency.app, "show", "--target", "host,dtype=float32", "--space", "fbnet_mini", "--dtype", "float16")
    with pytest.raises(UserError, match="'host,dtype=float32,dtype=float16' names two dtypes"):
        run(latency.app, "show", "--target", "host,dtype=float32,dtype=float16", "--space", "fbnet_mini")
    file = tmp_path / "pixel3.csv"
    run(latency.app, "export", "--target", "host", "--out", file, "--tuning-logs", logs)
    run(latency.app, "import", file, "--target", "pixel3", "--tuning-logs", logs)
    with pytest.raises(UserError, match="was imported and names no dtype"):
        run(
            latency.app,
            "show",
            "--target",
            "pixel3",
            "--space",
            "fbnet_mini",
            "--dtype",
            "float16",
            "--tuning-logs",
            logs,
        )
    run(latency.app, "export", "--target", "host,dtype=float16", "--out", file, "--tuning-logs", logs)
    for named, said in (("host32,dtype=float32", "in float16, not in float32"), ("half,dtype=float16", "")):
        words = ("import", file, "--target", named, "--tuning-logs", logs)
        with pytest.raises(UserError, match=said) if said else nullcontext():
            run(latency.app, *words)
    shown = run_json(latency.app, "show", "--target", "half", "--space", "fbnet_mini", "--tuning-logs", logs)
    assert shown["dtype"] == "float16"


def test_two_dtypes_of_one_target_are_compared_by_what_the_second_gains(logs: Path) -> None:
    half_speed(logs)
    pair = ("compare", "host,dtype=float32", "host,dtype=float16", "--tuning-logs", logs)
    shown = run_json(latency.app, *pair)
    assert (shown["first"], shown["second"], shown["first_dtype"]) == ("float32", "float16", "float32")
    ratios = [part["ratio"] for part in shown["parts"]]
    slower = sum("k5_e6" in part["name"] for part in shown["parts"])
    assert ratios == sorted(ratios) and 0 < slower == shown["slower"] and shown["faster"] == len(ratios) - slower
    for place in ("first", "second"):
        total = sum(part[f"{place}_ms"] for part in shown["parts"])
        assert shown[f"{place}_sum_ms"] == pytest.approx(total)
    said = " ".join(run(latency.app, *pair).stdout.split())
    assert said.count(" pays ") == shown["faster"] and said.count("does not pay") == slower
    assert f"float16 is faster in {shown['faster']} of {len(ratios)} parts and slower in {slower}" in said


def test_a_tables_file_can_be_looked_at_without_importing_it(logs: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    run(latency.app, "export", "--target", "host", "--out", file, "--tuning-logs", logs)
    cells = run_json(latency.app, "show", "--target", file, "--space", "fbnet_mini")["cells"]
    assert (
        cells
        == run_json(latency.app, "show", "--target", "host", "--space", "fbnet_mini", "--tuning-logs", logs)["cells"]
    )
    assert not list(tmp_path.glob("tuning_logs"))


def test_describing_and_predicting_load_neither_torch_nor_tvm() -> None:
    code = (
        "import sys, tvmfbnet.cli.spaces, tvmfbnet.cli.arch, tvmfbnet.cli.latency_model\n"
        "assert not {'numpy', 'xgboost', 'pydantic'} & set(sys.modules), 'the command line must start light'\n"
        "import tvmfbnet.latency.regressor, tvmfbnet.latency.repository, tvmfbnet.space.registry\n"
        "assert not {'torch', 'tvm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_commands_that_read_write_nothing_also_where_the_journal_is_torn(logs: Path, tmp_path: Path) -> None:
    path = journal_path("host", logs)
    path.write_bytes(path.read_bytes() + b'{"torn": ')
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in logs.rglob("*") if file.is_file()}
    options = ("--target", "host", "--tuning-logs", logs)
    run_json(latency.app, "show", *options, "--space", "fbnet_mini")
    assert run(latency.app, "export", *options, "--out", tmp_path / "out.csv").exit_code == 0
    run_json(latency.app, "compare", "host", "host", "--tuning-logs", logs)
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in logs.rglob("*") if file.is_file()}
    assert after == before


def test_a_table_of_another_tvm_or_cpu_is_named_as_such_and_a_device_model_can_be_chosen(logs: Path) -> None:
    options = ("--target", "host", "--tuning-logs", logs, "--space", "fbnet_mini")
    shown = run(latency.app, "show", *options)
    assert shown.exit_code == 0
    told = " ".join(shown.stderr.split())
    assert "another context" in told and "device Some CPU instead of" in told and "tvmfbnet tune --target host" in told
    table = run_json(latency.app, "show", *options, "--device-model", "Some CPU")
    assert table["context"]["device_model"] == "Some CPU"  # type: ignore[index]
    with pytest.raises(UserError, match="there are: Some CPU"):
        run(latency.app, "show", *options, "--device-model", "Pixel 3")
