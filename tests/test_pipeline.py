"""A whole run: bad input is one line before anything is spent; killed in any stage it goes on and ends the same."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from tvmfbnet.devices.target import load_target
from tvmfbnet.errors import DataError, StorageError, UserError
from tvmfbnet.files import folder_lock
from tvmfbnet.latency.table import Cell, LatencyTable
from tvmfbnet.nets.checkpoint import load_checkpoint
from tvmfbnet.pipeline import Recipe, Run, load_recipe
from tvmfbnet.search.run import search
from tvmfbnet.space.registry import load_space


def recipe_values(space_file, data):
    return {
        "description": "a run of seconds",
        "target": "host",
        "space": str(space_file),
        "data": data,
        "tune": {"trials": 1, "measure_share": 0.7},
        "latency_target_share": 0.6,
        "search": {
            **{"epochs": 40, "warmup_epochs": 2, "batch_size": 16, "checkpoint_steps": 5, "augment_shift": 0},
            **{"candidates": 3, "bn_images": 32, "threads": 1},
        },
        "train": {"epochs": 40, "batch_size": 16, "augment_shift": 0, "threads": 1},
    }


@pytest.fixture
def recipe_file(tmp_path, tiny_space_file, tiny_data):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe_values(tiny_space_file, tiny_data)))
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
    recipe_file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe_file))
    assert all(part in str(caught.value) for part in ("search.epochs", "trane", "train"))


def test_a_missing_data_set_ends_a_run_before_it_tunes(tiny_space_file, tmp_path):
    recipe = Recipe.model_validate(recipe_values(tiny_space_file, f"fashion_mnist:{tmp_path / 'nowhere'}"))
    with pytest.raises(DataError, match="nowhere"):
        Run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_recipes_run_is_left_alone(recipe_file, tmp_path):
    _, recipe = load_recipe(str(recipe_file))
    Run(recipe, tmp_path / "run")
    other = recipe.model_copy(update={"latency_target_share": 0.5})
    with pytest.raises(StorageError, match="another recipe"):
        Run(other, tmp_path / "run")


def changed_space(space_file, tmp_path):
    space_file.write_text(space_file.read_text().replace("last_channels: 8", "last_channels: 16"))


def changed_target(_, tmp_path):
    path = tmp_path / "targets/mine.yaml"
    path.write_text(path.read_text().replace("threads: 1", "threads: 2"))


def changed_data(_, tmp_path):
    images = tmp_path / "pictures/train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(images.read_bytes()))
    content[-1] ^= 1
    images.write_bytes(gzip.compress(bytes(content)))


@pytest.fixture
def own_target(tmp_path):
    """A target file beside the run, for this machine."""
    (tmp_path / "targets").mkdir()
    path = tmp_path / "targets/mine.yaml"
    values = {**load_target("host").model_dump(mode="json"), "name": "mine", "threads": 1}
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
    (tmp_path / "pictures").rename(tmp_path / "moved")
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


def test_two_runs_at_once_in_one_folder_are_refused(recipe_file, tmp_path):
    _, recipe = load_recipe(str(recipe_file))
    run = Run(recipe, tmp_path / "run")
    with folder_lock(tmp_path / "run", "a run"), pytest.raises(StorageError, match=r"a run is at work in .*run in"):
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
        pytest.raises(StorageError, match=r"a run is at work in .* in another"),
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


def wait_for(path, process, seconds=300):
    """Until a file is there, or the process ended without it."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"ended before {path.name} was there"
        assert time.monotonic() < deadline, f"no {path.name} after {seconds} s"
        time.sleep(0.02)


@pytest.mark.rpc
@pytest.mark.slow
def test_a_run_killed_in_tuning_search_and_training_ends_as_if_it_never_was(recipe_file, tmp_path):
    out, logs = tmp_path / "run", tmp_path / "logs"
    command = [sys.executable, "-m", "tvmfbnet.cli.main", "run", str(recipe_file)]
    command += ["--out", str(out), "--tuning-logs", str(logs), "--json"]
    moments = [logs / "host/database/trials.jsonl", out / "search/search.ckpt", out / "train/train.ckpt"]
    for number, moment in enumerate(moments):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **quiet, start_new_session=True)
        wait_for(moment, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        state = json.loads((out / "state.json").read_text()) if (out / "state.json").exists() else {}
        assert len(state) == number, f"killed in stage {len(state)}, not in {number}: {state}"
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)

    assert result["kernels_found"] == result["kernels_needed"] > 0
    assert result["parity_error"] < 1e-3
    assert result["predicted_ms"] > 0 and result["measured_ms"] > 0 and result["onnxruntime_ms"] > 0
    assert list(result["stage_seconds"]) == ["tune", "search", "train", "compile", "bench"]

    # The same search, never interrupted, on the same table.
    _, recipe = load_recipe(str(recipe_file))
    values = json.loads((out / "table.json").read_text())
    table = LatencyTable.from_records(values["cells"], values["overhead_ms"], values["target"])
    target_ms = json.loads((out / "search/search.json").read_text())["latency_target_ms"]
    config = recipe.search.model_copy(update={"latency_target_ms": target_ms})
    search(load_space(recipe.space), recipe.data, table, config, tmp_path / "whole")
    thetas = [
        load_checkpoint(folder / "search.ckpt", "search")["searcher"]["supernet"]["theta"]
        for folder in (out / "search", tmp_path / "whole")
    ]
    assert torch.equal(*thetas)

    again = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert again == result
