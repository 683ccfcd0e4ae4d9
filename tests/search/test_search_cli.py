"""The commands search, sample and train, called as a user calls them."""

import json
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from tvmfbnet.cli.latency import app as latency_app
from tvmfbnet.cli.main import main
from tvmfbnet.cli.sample import sample_command
from tvmfbnet.cli.search import parse_latency, search_command
from tvmfbnet.cli.train import train_command
from tvmfbnet.errors import ConfigError, ConstraintError, LatencyError, StorageError, UserError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table, write_table
from tvmfbnet.pipeline.recipe import Recipe
from tvmfbnet.pipeline.run import Run
from tvmfbnet.space.counts import count_part

APP = typer.Typer()
APP.command("search")(search_command)
APP.command("sample")(sample_command)
APP.command("train")(train_command)


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(APP, [str(item) for item in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


@pytest.fixture
def searching(tiny_space_file, tiny_space, tiny_data, tmp_path):
    """Arguments of a tiny search with a foreign table and a settings file."""
    cells = {part: Cell(0.01 + count_part(part).macs / 1e6) for part in tiny_space.distinct_parts()}
    write_table(LatencyTable(cells, 0.005), tmp_path / "table.csv")
    (tmp_path / "search.yaml").write_text("epochs: 9\nwarmup_epochs: 1\nbatch_size: 16\ncandidates: 2\nthreads: 1\n")
    arguments = ["--space", tiny_space_file, "--data", tiny_data, "--latency-table", tmp_path / "table.csv"]
    return [*arguments, "--config", tmp_path / "search.yaml", "--epochs", 2, "--device", "cpu"]


def test_search_sample_and_train_work_from_a_table_alone(searching, tiny_space_file, tiny_data, tmp_path):
    result = json.loads(
        run("search", *searching, "--out", tmp_path / "s", "--latency-target", "0.09ms", "--json").stdout
    )
    assert result["predicted_ms"] <= 0.09 and len(result["candidates"]) == 2 and result["measured_share"] == 1.0
    assert len(json.loads((tmp_path / "s/history.json").read_text())) == 2, "a flag goes before the settings file"
    drawn = json.loads(run("sample", tmp_path / "s", "-n", 3, "--json").stdout)
    assert len(drawn) == 3 and all(0 <= item["accuracy"] <= 1 for item in drawn)
    shown = run("sample", tmp_path / "s", "-n", 3)
    assert drawn[0]["arch"] in shown.stdout and "front" in shown.stdout
    assert any(item["on_front"] for item in drawn)
    quick = json.loads(run("sample", tmp_path / "s", "-n", 3, "--no-validate", "--json").stdout)
    assert [item["arch"] for item in quick] == [item["arch"] for item in drawn] and quick[0]["accuracy"] is None
    run("sample", tmp_path / "s", "--figure", tmp_path / "front.svg")
    assert "Pareto front" in (tmp_path / "front.svg").read_text() and "<svg" in (tmp_path / "front.svg").read_text()
    with pytest.raises(UserError, match=r"front\.txt.*ending in"):
        run("sample", tmp_path / "s", "--figure", tmp_path / "front.txt")
    (tmp_path / "s/search.ckpt").unlink()
    with pytest.raises(StorageError, match=r"search\.ckpt"):
        run("sample", tmp_path / "s")
    training = ["--space", tiny_space_file, "--data", tiny_data, "--out", tmp_path / "t", "--epochs", 1]
    flags = ["--warmup-epochs", 0, "--batch-size", 16, "--device", "cpu", "--json"]
    trained = json.loads(run("train", result["arch"], *training, *flags).stdout)
    assert 0 <= trained["test_accuracy"] <= 1 and trained["checkpoint"] == str(tmp_path / "t/net.pt")


def test_an_unreachable_target_is_refused_with_the_range(searching, tmp_path):
    with pytest.raises(ConstraintError, match=r"0\.01 ms: reachable are 0\.0\d+ to 0\.\d+ ms"):
        run("search", *searching, "--out", tmp_path / "s", "--latency-target", "10us")


def test_a_latency_without_sense_is_a_usage_error(searching):
    for text in ("fast", "-3ms", "0", "8 hours"):
        result = run("search", *searching, "--latency-target", text)
        assert result.exit_code == 2 and "write 8ms" in result.output.replace("\n", " ")


def test_all_mistakes_of_a_settings_file_are_told_at_once(searching, tmp_path):
    (tmp_path / "search.yaml").write_text("epoch: 3\nalpha: -1\n")
    with pytest.raises(ConfigError, match=r"search\.yaml: 2 problems.*"):
        run("search", *searching)


def test_exactly_one_source_of_latency_must_be_given(searching):
    with pytest.raises(UserError, match="one of the two"):
        run("search", *searching, "--target", "host")


def test_a_target_that_was_never_measured_is_refused(tiny_space_file, tiny_data, tmp_path):
    with pytest.raises(LatencyError, match="nothing was measured"):
        run("search", "--space", tiny_space_file, "--data", tiny_data, "--target", "x", "--tuning-logs", tmp_path)


WITHOUT_TVM = """
import sys

import tvmfbnet.cli.main as cli

sys.modules["tvm"] = None  # whoever imports it now fails
try:
    cli.main(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
assert not [name for name in sys.modules if name.split(".")[0] in ("tvm", "tvm_ffi") and sys.modules[name]]
"""


def test_a_whole_search_from_a_foreign_table_never_loads_tvm(searching, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TVM, "search", *(str(item) for item in searching), "--json"]
    done = subprocess.run([*command, "--out", str(tmp_path / "s")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["measured_share"] == 1.0


def test_a_whole_search_on_a_simulated_processor_needs_no_device_and_no_tvm(searching, tmp_path):
    words = [str(item) for item in searching]
    words[words.index("--latency-table") + 1] = "simulated:gflops=0.1,gbps=0.1,call_us=10"
    command = [sys.executable, "-c", WITHOUT_TVM, "search", *words, "--json", "--out", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["measured_share"] == 0.0, "nothing was measured"
    source = {"kind": "simulated", "name": "simulated:gflops=0.1,gbps=0.1,call_us=10", "simulated": True}
    assert told["latency_source"] == source == json.loads((tmp_path / "s/search.json").read_text())["latency_source"]
    shown = run("search", *words, "--out", tmp_path / "s").stdout
    assert "simulated, " in shown and "predicted" not in shown and f"latencies: {source['name']} (a model" in shown
    assert "simulated, " in run("sample", tmp_path / "s", "-n", 2, "--no-validate").stdout
    assert "are simulated by a model; no device took them" in " ".join(done.stderr.split())


def test_what_a_foreign_table_lacks_is_listed_or_predicted_on_request(searching, tiny_space, tmp_path):
    parts = tiny_space.distinct_parts()
    cells = {part: Cell(0.01 + count_part(part).macs / 1e6) for part in parts if part.block != "k5_e1_g2"}
    write_table(LatencyTable(cells, 0.005), tmp_path / "table.csv")
    with pytest.raises(LatencyError, match=r"lacks \d+ part.*k5_e1_g2"):
        run("search", *searching, "--out", tmp_path / "s")
    result = json.loads(run("search", *searching, "--predict-missing", "--out", tmp_path / "s", "--json").stdout)
    assert result["predicted_ms"] > 0


def test_a_dry_run_says_what_is_searched_and_a_target_may_be_a_share_of_the_slowest_net(searching, tmp_path, caplog):
    words = ["search", *searching, "--out", tmp_path / "s", "--latency-target", "50%", "--dry-run"]
    plan = json.loads(run(*words, "--json").stdout)
    assert 0 < plan["fastest_ms"] < plan["slowest_ms"]
    assert plan["latency_target_ms"] == pytest.approx(plan["slowest_ms"] / 2)
    shown = run(*words)
    assert "50% of the slowest net" in shown.stdout
    assert "the search would be refused: no net of this space meets a latency target" in caplog.text
    assert not (tmp_path / "s").exists()
    for share in ("0%", "101%", "-5%", "x%"):
        assert run("search", *searching, f"--latency-target={share}", "--dry-run").exit_code == 2


def test_settings_are_printed_for_a_file_of_ones_own(searching, tiny_space_file, tiny_data, tmp_path):
    (tmp_path / "mine.yaml").write_text(run("search", *searching, "--print-config").stdout)
    again = run("search", *searching[:6], "--config", tmp_path / "mine.yaml", "--print-config").stdout
    assert again == (tmp_path / "mine.yaml").read_text() and "\nbatch_size: 16\n" in again and "#alpha: 0.2" in again
    arch = "k3_e1/k3_e3,skip"
    words = ["train", arch, "--space", tiny_space_file, "--data", tiny_data, "--epochs", 4, "--print-config"]
    assert "epochs: 4\n" in run(*words).stdout


def test_a_table_without_the_head_names_the_remedy(searching, tiny_space, tmp_path):
    cells = {part: Cell(1.0) for part in tiny_space.distinct_parts() if "head" not in part.part}
    write_table(LatencyTable(cells, 0.005), tmp_path / "table.csv")
    with pytest.raises(LatencyError, match=r"last_channels and classes; add --predict-missing"):
        run("search", *searching, "--dry-run")


def test_a_share_of_the_slowest_net_is_the_same_target_in_search_sample_and_a_recipe(
    searching, tiny_space_file, tiny_space, tiny_data, tmp_path, monkeypatch
):
    search_module = "tvmfbnet.search.search"
    plan = json.loads(run("search", *searching, "--latency-target", "80%", "--dry-run", "--json").stdout)
    assert plan["latency_target_ms"] == pytest.approx(0.8 * plan["slowest_ms"], abs=1e-6)

    logs = ["--target", "phone", "--tuning-logs", str(tmp_path)]
    for words in (["import", str(tmp_path / "table.csv"), *logs], ["show", *logs, "--space", str(tiny_space_file)]):
        shown = CliRunner().invoke(latency_app, words, catch_exceptions=False).stdout
    last = shown.splitlines()[-1]
    extremes = re.fullmatch(r"nets of the space: (\S+) \S+ \(fastest\) to (\S+) \S+ \(slowest\)", last)
    ratio = float(extremes[2]) / float(extremes[1])
    assert ratio == pytest.approx(plan["slowest_ms"] / plan["fastest_ms"], rel=1e-3), last

    run("search", *searching, "--out", tmp_path / "s", "--latency-target", "80%")
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert record["latency_target_ms"] == plan["latency_target_ms"]
    limits = []
    monkeypatch.setattr(f"{search_module}.sample_run", lambda *given: limits.append(given[3]) or [])
    run("sample", tmp_path / "s", "--latency-target", "80%")
    assert limits == [plan["latency_target_ms"]]

    # A recipe whose table is the same one: what its search and its closed loop aim at.
    values = {"description": "d", "target": "host", "space": str(tiny_space_file), "data": tiny_data}
    values |= {"latency_target_share": 0.8, "search": {"epochs": 2, "finalists": 4}, "train": {}}
    started = Run(Recipe.model_validate(values), tmp_path / "run")
    table = read_table(tmp_path / "table.csv")
    cells = table.to_records(tiny_space.distinct_parts())
    content = {"cells": cells, "overhead_ms": table.overhead_ms, "target": "host"}
    (tmp_path / "run/table.json").write_text(json.dumps(content))
    (tmp_path / "run/state.json").write_text('{"tune": 1.0}')
    aimed = []
    monkeypatch.setattr(f"{search_module}.search", lambda *given: aimed.append(given[3].latency_target_ms))
    monkeypatch.setattr(Run, "_close_loop", lambda self, table, target_ms: aimed.append(target_ms))
    monkeypatch.setattr(Run, "_train", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        started.go()
    assert aimed == [plan["latency_target_ms"]] * 2


def test_a_share_where_there_is_no_table_is_refused_with_the_way_to_write_a_latency():
    with pytest.raises(typer.BadParameter, match=r"'50%' is no latency: write 8ms \(search, sample and recipes take"):
        parse_latency("50%")


def test_a_dry_run_says_how_long_a_search_takes_and_a_device_is_torchs(searching, tmp_path):
    words = ["search", *searching, "--out", tmp_path / "s", "--dry-run"]
    assert re.search(r"about .* \(6 steps of warm-up x .* \+ 6 steps of weights x .*judging archs", run(*words).stdout)
    plan = json.loads(run(*words, "--json").stdout)
    assert plan["estimated_seconds"] > 0 and set(plan["step_seconds"]) == {"single", "weight", "theta"}
    for command in ("search", "train"):
        shown = " ".join(run(command, "--help").stdout.replace("│", " ").split())
        assert "Where torch computes on this machine" in shown and "Not the device of --target" in shown
    assert run("search", *searching, "--torch-device", "cpu", "--dry-run").exit_code == 0


def test_constraints_and_a_strategy_are_given_on_the_command_line(searching, tmp_path):
    limits = ["--constraint", "params<=1100", "--constraint", "latency<=0.095ms"]
    judged = {"differentiable": [], "random": [], "evolution": ["--evaluator", "supernet"]}
    for strategy, evaluator in judged.items():
        words = [*searching, "--strategy", strategy, *evaluator, *limits, "--out", tmp_path / strategy]
        result = json.loads(run("search", *words, "--json").stdout)
        assert result["strategy"] == strategy and result["spent_images"] > 0 and result["spent_seconds"] > 0
        checks = {check["quantity"]: check for check in result["constraints"]}
        assert checks["params"]["bound"] == 1100 and checks["params"]["met"] and checks["params"]["value"] <= 1100
        assert checks["latency"]["bound"] == 0.095 and checks["latency"]["value"] == result["predicted_ms"] <= 0.095
        assert json.loads((tmp_path / strategy / "search.json").read_text())["latency_target_ms"] == 0.095
        drawn = json.loads(run("sample", tmp_path / strategy, "-n", 4, "--constraint", "params<=1k", "--json").stdout)
        assert drawn and all(item["constraints"][0]["value"] <= 1000 for item in drawn)
        shown = run("sample", tmp_path / strategy, "-n", 4, "--constraint", "params<=1k").stdout
        assert "params" in shown and ("supernet accuracy" in shown) == (strategy == "differentiable")
        assert "params" in run("search", *words).stdout


WRONG = {
    "unreadable": (["--constraint", "params<4M"], "'params<4M' is no constraint: a constraint is written"),
    "unknown": (["--constraint", "memory<=2MB"], "no quantity is called 'memory'; there are latency, "),
    "unreachable": (
        ["--constraint", "params<=20"],
        "no net of this space meets a bound on params of 20: reachable are",
    ),
    "twice": (["--constraint", "params<=1k", "--constraint", "params<=2k"], "params has two bounds"),
    "latency twice": (["--constraint", "latency<=1ms", "--latency-target", "2ms"], "latency has two bounds"),
    "strategy": (["--strategy", "psychic"], "strategy: Input should be 'differentiable'"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_constraints_are_one_line_and_exit_code_2(searching, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        main(["search", *map(str, searching), *words, "--out", str(tmp_path / "s")])
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and said in lines[-1]
    assert not [line for line in lines[:-1] if line.startswith("error")] and not (tmp_path / "s/search.json").exists()


def test_a_dry_run_tells_of_constraints_and_of_the_archs_that_a_strategy_affords(searching, tmp_path):
    words = ["search", *searching, "--out", tmp_path / "s", "--constraint", "params<=1100", "--dry-run"]
    assert json.loads(run(*words, "--json").stdout)["constraints"] == ["params<=1.1k"]
    shown = run(*words, "--strategy", "random").stdout
    assert "constraints: params<=1.1k" in shown
    assert re.search(r"strategy random: up to \d+ archs, each trained for \d+ steps", shown)
    plan = json.loads(run(*words, "--strategy", "random", "--json").stdout)
    assert plan["strategy"] == "random" and plan["steps"]["theta_steps"] == 0 < plan["steps"]["finalist_steps"]
    shown = run(*words, "--strategy", "evolution", "--evaluator", "supernet").stdout
    assert re.search(r"strategy evolution: a supernet of \d+ steps judges all archs", shown)


def test_a_recipes_constraints_are_checked_before_anything_is_tuned(tiny_space_file, tiny_data, tmp_path):
    values = {"description": "d", "target": "host", "space": str(tiny_space_file), "data": tiny_data, "train": {}}
    values |= {"search": {"epochs": 2, "constraints": ["params<=20"]}}
    with pytest.raises(ConstraintError, match="a bound on params of 20: reachable are"):
        Run(Recipe.model_validate(values), tmp_path / "run")
    assert not (tmp_path / "run/recipe.yaml").exists()
    with pytest.raises(ValueError, match=r"latency_target_share or search\.latency_target_ms, not both"):
        Recipe.model_validate({**values, "latency_target_share": 0.5, "search": {"constraints": ["latency<=8ms"]}})


def test_a_bound_on_the_command_line_goes_before_the_settings_one_on_the_same_quantity(searching, tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(file.read_text() + "constraints: [latency<=0.2ms, params<=1400]\n")

    def bounds(*words):
        plan = json.loads(run("search", *searching, *words, "--dry-run", "--json").stdout)
        return plan["latency_target_ms"], plan["constraints"]

    assert bounds() == (0.2, ["params<=1.4k"])
    assert bounds("--constraint", "params<=1.2k") == (0.2, ["params<=1.2k"])
    assert bounds("--constraint", "latency<=0.1ms") == (0.1, ["params<=1.4k"])
    assert bounds("--latency-target", "0.1ms") == (0.1, ["params<=1.4k"])
