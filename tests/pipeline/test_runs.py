"""A whole run: bad input is one line before anything is spent, and it ends with a verdict on what was measured.

Interrupted and killed in any stage it goes on and ends the same: `tests/stories/test_interrupt_and_resume.py`.
"""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from brief_target import host_values

from tvmfbnet.cli.main import app
from tvmfbnet.errors import DataError, DeviceError, LatencyError, PackageError, StorageError, UserError
from tvmfbnet.files import folder_lock
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.sources.registry import source_of
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import table_content, write_table
from tvmfbnet.pipeline.recipe import Recipe, load_recipe
from tvmfbnet.pipeline.run import Run
from tvmfbnet.pipeline.tuning_options import TuneConfig
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space


def recipe_values(space_file, data):
    return {
        "description": "a run of seconds",
        "target": "host",
        "space": str(space_file),
        "data": data,
        "tune": {"trials": 1, "batch": 1, "measure_share": 0.7},
        "latency_target_share": 1.0,  # so that the first net usually meets it, and no other one is timed
        "search": {
            **{"epochs": 6, "warmup_epochs": 2, "batch_size": 16, "checkpoint_steps": 5, "augment_shift": 0},
            **{"candidates": 3, "bn_images": 32, "threads": 1},
        },
        "train": {"epochs": 16, "batch_size": 16, "augment_shift": 0, "threads": 1},
    }


@pytest.fixture
def recipe_file(tmp_path, tiny_space_file, tiny_data):
    target = tmp_path / "host.yaml"
    target.write_text(yaml.safe_dump(host_values()))
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**recipe_values(tiny_space_file, tiny_data), "target": str(target)}))
    return path


def test_every_shipped_recipe_is_whole():
    name, recipe = load_recipe("demo")
    assert name == "demo" and recipe.target == "host"


def test_an_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(UserError, match=r"unknown recipe 'dmeo': did you mean demo\?"):
        load_recipe("dmeo")


def test_a_malformed_recipe_says_every_problem(recipe_file):
    values = yaml.safe_load(recipe_file.read_text())
    values["search"]["epochs"] = "many"
    values["trane"] = values.pop("train")
    values["max_package_size"] = "6 apples"
    recipe_file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe_file))
    assert all(part in str(caught.value) for part in ("search.epochs", "trane", "train", "'6 apples' is no bound"))


@pytest.mark.parametrize(
    ("latency", "tune", "said"),
    [
        ("simulated:gflops=16,gbps=8", {"trials": 1}, "tune measures the target, and latency: simulated:"),
        ("host", None, "latency is 'host', neither a table's file nor simulated:"),
        ("simulated:gflops=16", None, "gbps: Field required"),
    ],
)
def test_a_recipe_that_gives_the_latencies_measures_none(recipe_file, latency, tune, said):
    values = {**yaml.safe_load(recipe_file.read_text()), "latency": latency}
    values.pop("tune")
    recipe_file.write_text(yaml.safe_dump({**values, **({} if tune is None else {"tune": tune})}))
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe_file))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_refuses_a_table_of_another_dtype_before_it_searches(recipe_file, tiny_space_file, tmp_path):
    table = source_of("simulated:gflops=16,gbps=8").load(load_space(str(tiny_space_file)).distinct_parts())
    write_table(replace(table, stated_dtype="int8"), tmp_path / "core.csv")
    values = {**yaml.safe_load(recipe_file.read_text()), "latency": str(tmp_path / "core.csv")}
    del values["tune"]
    with pytest.raises(LatencyError, match=r"core\.csv has latencies in int8, not in float32: use it with dtype int8"):
        Run(Recipe.model_validate(values), tmp_path / "run").go()
    assert not (tmp_path / "run/table.json").exists()


def test_a_missing_data_set_ends_a_run_before_it_tunes(tiny_space_file, tmp_path):
    recipe = Recipe.model_validate(recipe_values(tiny_space_file, f"fashion_mnist:{tmp_path / 'nowhere'}"))
    with pytest.raises(DataError, match="nowhere"):
        Run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_away_ends_a_run_that_still_needs_it_and_no_other(tiny_space_file, tiny_data, tmp_path):
    away = host_values(name="away")
    away["transport"] = {"kind": "tracker", "port": free_port(), "key": "away"}
    (tmp_path / "away.yaml").write_text(yaml.safe_dump(away))
    values = {**recipe_values(tiny_space_file, tiny_data), "target": str(tmp_path / "away.yaml")}
    recipe, done = Recipe.model_validate(values), {"tune": 1, "search": 1, "train": 1, "compile": 1}
    (tmp_path / "run").mkdir()
    for stages in ({}, done):
        (tmp_path / "run/state.json").write_text(json.dumps(stages))
        with pytest.raises(DeviceError, match="no tracker at"):
            Run(recipe, tmp_path / "run")
    (tmp_path / "run/state.json").write_text(json.dumps({**done, "bench": 1}))
    Run(recipe, tmp_path / "run")


def test_a_folder_with_another_recipes_run_is_left_alone(recipe_file, tmp_path):
    _, recipe = load_recipe(str(recipe_file))
    Run(recipe, tmp_path / "run")
    # What only decides whether the net may be shipped makes no other run of it.
    Run(recipe.model_copy(update={"max_accuracy_loss": 5.0}), tmp_path / "run")
    other = recipe.model_copy(update={"latency_target_share": 0.5})
    (tmp_path / "images/train-images-idx3-ubyte.gz").write_bytes(b"broken")  # said before the data set is read
    with pytest.raises(StorageError, match="another recipe"):
        Run(other, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.rpc
def test_a_run_in_float16_tunes_searches_compiles_and_benches_in_it(recipe_file, tmp_path, capsys):
    out, logs = tmp_path / "run", tmp_path / "logs"
    values = yaml.safe_load(recipe_file.read_text())
    values["search"] |= {"epochs": 4, "candidates": 2}
    del values["latency_target_share"]  # without a target, no net is timed before it is trained
    recipe_file.write_text(yaml.safe_dump({**values, "train": {**values["train"], "epochs": 8}}))
    command = ["run", str(recipe_file), "--dtype", "float16", "--out", str(out), "--tuning-logs", str(logs), "--json"]
    assert app(args=command, standalone_mode=False) in (0, 3, None)
    result = json.loads(capsys.readouterr().out)
    assert result["dtype"] == "float16" and 1e-5 < result["parity_error"] < 1e-2
    # A few images are on the border of two classes; none of the others may change.
    assert result["agreement"] > 0.8 and result["images"] > 10
    assert {json.loads(line)["dtype"] for line in (logs / "host/latency.jsonl").read_text().splitlines()} == {"float16"}
    package = json.loads((out / "package/package.json").read_text())
    assert (package["dtype"], package["input_dtype"]) == ("float16", "float32")
    assert package["parity"]["agreement"] == result["agreement"] and package["kernels_missing"] == []
    page = Path(result["report"]).read_text()
    assert "float16" in page and f"{result['agreement']:.2%}" in page
    # Whoever names no dtype benches the package in its own, and is refused with another.
    bench = ["bench", str(out / "package"), "--target", values["target"], "--json"]
    assert app(args=bench, standalone_mode=False) in (0, 3, None)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["dtype"], shown["agreement"]) == ("float16", result["agreement"])
    with pytest.raises(UserError, match="computes in float16, and target host in float32"):
        app(args=[*bench, "--dtype", "float32"], standalone_mode=False)
    # The run's folder is of this dtype alone.
    with pytest.raises(StorageError, match="another recipe"):
        Run(load_recipe(str(recipe_file))[1], out, logs)


def changed_space(space_file, tmp_path):
    space_file.write_text(space_file.read_text().replace("last_channels: 8", "last_channels: 16"))


def changed_target(_, tmp_path):
    path = tmp_path / "targets/mine.yaml"
    path.write_text(path.read_text().replace("threads: 1", "threads: 2"))


def changed_data(_, tmp_path):
    images = tmp_path / "images/train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(images.read_bytes()))
    content[-1] ^= 1
    images.write_bytes(gzip.compress(bytes(content)))


@pytest.fixture
def own_target(tmp_path):
    """A target file beside the run, for this machine."""
    (tmp_path / "targets").mkdir()
    path = tmp_path / "targets/mine.yaml"
    values = host_values(name="mine", threads=1)
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [(changed_space, "search space"), (changed_target, "target"), (changed_data, "data set")],
)
def test_a_content_that_changed_behind_its_name_is_refused(
    tiny_space_file, tiny_data, own_target, tmp_path, change, named
):
    values = {**recipe_values(tiny_space_file, tiny_data), "target": str(own_target)}
    recipe = Recipe.model_validate(values)
    Run(recipe, tmp_path / "run")
    Run(recipe, tmp_path / "run")
    change(tiny_space_file, tmp_path)
    with pytest.raises(StorageError, match=rf"a run whose {named} had another content than .* has now; restore it"):
        Run(recipe, tmp_path / "run")


def test_names_and_places_may_change_where_contents_do_not(tiny_space_file, tiny_data, own_target, tmp_path):
    values = {**recipe_values(tiny_space_file, tiny_data), "target": str(own_target)}
    Run(Recipe.model_validate(values), tmp_path / "run")
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "space.yaml").write_text("description: the same\n" + tiny_space_file.read_text())
    values.update(data=f"fashion_mnist:{tmp_path}/moved", space=str(tmp_path / "space.yaml"))
    Run(Recipe.model_validate(values), tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["data"] == values["data"]
    (tmp_path / "run/identity.json").unlink()  # as in a run of an earlier version
    other = {**values, "space": str(tiny_space_file)}
    with pytest.raises(StorageError, match="another recipe"):
        Run(Recipe.model_validate(other), tmp_path / "run")


def test_a_table_of_another_space_is_not_used(recipe_file, tmp_path):
    _, recipe = load_recipe(str(recipe_file))
    run = Run(recipe, tmp_path / "run")
    cells = LatencyTable({part: Cell(1.0) for part in run.space.distinct_parts()}, 0.0).to_records(
        run.space.distinct_parts()
    )
    table = {"cells": cells, "overhead_ms": 0.0, "target": "host", "identity": {"space": "0", "target": "0"}}
    (tmp_path / "run/table.json").write_text(json.dumps(table))
    (tmp_path / "run/state.json").write_text('{"tune": 1.0}')
    with pytest.raises(StorageError, match=r"table\.json was measured for another space, target or tune section"):
        run.go()


def test_a_table_from_before_a_setting_of_tune_existed_had_its_default(recipe_file, tmp_path):
    recipe = load_recipe(str(recipe_file))[1].model_copy(update={"tune": TuneConfig(trials=1)})
    run = Run(recipe, tmp_path / "run")
    table = LatencyTable({part: Cell(1.0) for part in run.space.distinct_parts()}, 0.0)
    identity = run._table_identity()
    identity["tune"].pop("batch")
    content = {**table_content(table, run.space.distinct_parts()), "target": "host", "identity": identity}
    (tmp_path / "run/table.json").write_text(json.dumps(content))
    assert run._table().cells == table.cells


def test_two_runs_at_once_in_one_folder_are_refused(recipe_file, tmp_path):
    _, recipe = load_recipe(str(recipe_file))
    run = Run(recipe, tmp_path / "run")
    with (
        folder_lock(tmp_path / "run", "a run"),
        pytest.raises(StorageError, match=r"a run is already active in .*run in"),
    ):
        run.go()


def test_an_output_folder_that_cannot_be_made_is_one_line(recipe_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-m", "tvmfbnet.cli.main", "run", str(recipe_file), "--out", str(tmp_path / "file/run")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1


def test_two_runs_in_one_folder_are_one_too_many(recipe_file, tmp_path):
    run = Run(load_recipe(str(recipe_file))[1], tmp_path / "run", tmp_path / "logs")
    with (
        folder_lock(tmp_path / "run", "a run"),
        pytest.raises(StorageError, match=r"a run is already active in .* in another"),
    ):
        run.go()
    assert not (tmp_path / "run" / "state.json").exists() and not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "state", ["[1]", '{"tune": "x"}', '{"tune": -1}', '{"tune": NaN}', '{"tune": 1, "tune": 2}', '{"tu', "\ufeff[", ""]
)
def test_a_damaged_state_is_one_line_before_anything_starts(recipe_file, tmp_path, state):
    run = Run(load_recipe(str(recipe_file))[1], tmp_path / "run", tmp_path / "logs")
    (tmp_path / "run" / "state.json").write_text(state)
    with pytest.raises(StorageError, match=r"state\.json is .*; remove it and run again"):
        run.go()
    assert not (tmp_path / "logs").exists()


def small(recipe, target_ms, **changes):
    """The recipe in as few epochs as there can be, for another latency target; ``changes``: of the search."""
    search = {**recipe.search.model_dump(), "epochs": 3, "latency_target_ms": target_ms, "mode": "auto", **changes}
    train = {**recipe.train.model_dump(), "epochs": 1, "warmup_epochs": 0}
    return Recipe.model_validate(
        {**recipe.model_dump(), "latency_target_share": None, "search": search, "train": train}
    )


@pytest.mark.rpc
@pytest.mark.slow
def test_a_run_ends_with_the_verdict_on_what_was_measured_in_all_its_places(recipe_file, tmp_path, capsys):
    logs = tmp_path / "logs"
    recipe = load_recipe(str(recipe_file))[1]

    simulated = "simulated:gflops=16,gbps=8"
    given = small(recipe, None).model_copy(update={"latency": simulated, "tune": TuneConfig()})
    with pytest.raises(PackageError, match=r"more than the 1,000 allowed: compile a smaller net") as refused:
        Run(given.model_copy(update={"max_package_size": "1kB"}), tmp_path / "free", logs).go()
    assert "\n" not in str(refused.value)
    assert list(json.loads((tmp_path / "free/state.json").read_text())) == ["tune", "search", "train"], (
        "nothing is lost"
    )
    free = Run(given, tmp_path / "free", logs).go()
    source = {"kind": "simulated", "name": simulated, "simulated": True}
    assert free.values["latency_source"] == source and free.values["measured_share"] == 0.0
    assert not logs.exists() or not list(logs.rglob("trials.jsonl")), "nothing is tuned"
    described = json.loads((tmp_path / "free/package/package.json").read_text())
    assert described["latency_source"] == source and described["predicted_ms"] == free.values["predicted_ms"]
    assert f"{simulated} (a model, no device)" in free.report.read_text()
    assert free.exit_code == 0 and free.values["verdict"] is None
    assert free.values["measured_ms"] > 0 and free.values["interval"]["low_ms"] < free.values["interval"]["high_ms"]

    bounded = small(recipe, 1e4, strategy="random", constraints=["params<=1200"], finalist_steps=4)
    easy = Run(bounded, tmp_path / "easy", logs).go()
    assert (easy.exit_code, easy.values["verdict"], easy.values["latency_target_ms"]) == (0, "met", 1e4)
    assert easy.values["speed_factor"] is None or easy.values["speed_factor"]["parts"] > 0
    latency, params = easy.values["constraints"]
    measured = {"value": easy.values["measured_ms"], "bound": 1e4, "met": True}
    assert latency == {"quantity": "latency", "unit": "ms", **measured}
    space = load_space(recipe.space)
    counted = count_arch(parse_arch(easy.values["arch"], space), space).params
    assert params == {"quantity": "params", "unit": "", "value": counted, "bound": 1200, "met": True}
    page = easy.report.read_text()
    assert "of at most 1.2k: met</td>" in page and "<td>random</td>" in page and "Theta over the search" not in page

    # A table of a device that is 100x faster: it promises what no net keeps.
    hard, table = tmp_path / "hard", json.loads((tmp_path / "easy/table.json").read_text())
    cells = [{**cell, "latency_ms": cell["latency_ms"] / 100} for cell in table["cells"]]
    hard.mkdir()
    (hard / "table.json").write_text(json.dumps({**table, "cells": cells, "overhead_ms": table["overhead_ms"] / 100}))
    (hard / "state.json").write_text('{"tune": 0.1}')
    space = load_space(recipe.space)
    target_ms = LatencyTable.from_records(cells, table["overhead_ms"] / 100, "host").range_ms(space)[1]
    file = tmp_path / "hard.yaml"
    file.write_text(yaml.safe_dump(small(recipe, target_ms).model_dump(mode="json")))
    command = ["run", str(file), "--out", str(hard), "--tuning-logs", str(logs)]
    for arguments in ([], ["--json"]):  # the second one has nothing left to do
        capsys.readouterr()
        assert app(args=[*command, *arguments], standalone_mode=False) == 3
        shown = capsys.readouterr().out
        told = json.loads((hard / "result.json").read_text())
        assert told["verdict"].startswith("missed by ") and told["verdict_kind"] == "missed" and told["advice"]
        assert told["measured_ms"] > 2 * told["latency_target_ms"] == pytest.approx(2 * target_ms)
        if arguments:
            assert json.loads(shown)["verdict"] == told["verdict"]
        else:
            assert told["verdict"] in " ".join(shown.split())
    assert told["verdict"] in (hard / "report/index.html").read_text()
    (attempt,) = json.loads((hard / "closed_loop.json").read_text())["attempts"]
    assert attempt["verdict_kind"] == "missed" and attempt["measured_ms"] > attempt["table_ms"]


def test_a_target_by_share_goes_with_every_mode_and_a_mode_that_needs_one_is_refused_at_once(recipe_file):
    values = yaml.safe_load(recipe_file.read_text())
    for mode in ("auto", "penalty", "target"):
        assert Recipe.model_validate({**values, "search": {**values["search"], "mode": mode}}).search.mode == mode
    values.pop("latency_target_share")
    values["search"]["mode"] = "target"
    recipe_file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="mode target needs latency_target_ms"):
        load_recipe(str(recipe_file))
