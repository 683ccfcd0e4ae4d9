"""A story: Ctrl-C in every phase of a run, kill -9 in some, and the same command again: all ends as if undisturbed."""

import json
import os
import re
import signal
from collections import Counter

import pytest
import torch
import yaml
from terminals import Watched, lines, rows_of_one_run, write_files

from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.pipeline.recipe import load_recipe
from tvmfbnet.search.search import search
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.checkpoint import load_checkpoint
from tvmfbnet.training.train import train

pytestmark = [pytest.mark.rpc, pytest.mark.slow]

STEPS = {"batch_size": 16, "augment_shift": 0, "threads": 1, "checkpoint_steps": 100_000}
# What a busy machine may add to the three seconds that stopping takes.
SLACK_SECONDS = 4.0


def write_recipe(folder, data):
    values = {
        "description": "a run of seconds",
        "target": str(folder / "mine.yaml"),
        "space": str(folder / "small.yaml"),
        "data": data,
        "tune": {"trials": 1, "batch": 2},
        "search": {
            **STEPS,
            **{"epochs": 12, "warmup_epochs": 2, "device": "cpu", "candidates": 2, "bn_images": 32},
            **{"finalists": 2, "finalist_steps": 150, "stop_on_collapse": False},
        },
        "train": {**STEPS, "epochs": 60, "warmup_epochs": 1, "device": "cpu"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def allowed_seconds(said):
    """What the line of a command that was interrupted allowed it."""
    (line,) = [line for line in said if "interrupted" in line]
    assert line.startswith("interrupted: stopping (up to ") and "Traceback" not in "".join(said)
    return int(re.search(r"up to (\d+) s", line)[1]), line


def test_stopped_or_killed_in_every_phase_the_same_command_ends_as_an_undisturbed_run(tmp_path, tiny_data):
    write_files(tmp_path)
    recipe = write_recipe(tmp_path, tiny_data)
    out, logs = tmp_path / "run", tmp_path / "logs" / "mine"
    words = ["run", str(recipe), "--out", str(out), "--tuning-logs", str(tmp_path / "logs"), "--json"]
    trials, visits = logs / "database/trials.jsonl", logs / "visits.jsonl"
    told, kept = [], {trials: [], visits: []}

    def stopped_when(text, more=lambda: True):
        life = Watched.start(*words)
        life.wait_until(life.says(text))
        life.wait_until(more)
        seconds = life.interrupt()
        allowed, line = allowed_seconds(life.said)
        assert seconds < allowed + SLACK_SECONDS and line.endswith("run the same command to resume\n"), (text, seconds)
        if "checkpoint" not in line:
            assert allowed == 3
        told.append(line)
        keep(text)

    def keep(text):
        for path, before in kept.items():
            assert path is visits or lines(path)[: len(before)] == before, f"lost at {text}"
            kept[path] = lines(path)

    def killed_when(text, stages, more=lambda: True):
        life = Watched.start(*words)
        life.wait_until(life.says(text))
        life.wait_until(more)
        os.killpg(life.process.pid, signal.SIGKILL)
        life.process.wait()
        keep(text)
        state = json.loads((out / "state.json").read_text()) if (out / "state.json").exists() else {}
        assert list(state) == stages, f"killed in another stage than {text}"

    stopped_when("lowering blocks")
    # One more than is promised: the last line may not be on disk yet, and a Ctrl-C then takes it back.
    stopped_when("tuning trials", lambda: len(lines(trials)) > 3)
    assert len(kept[trials]) > 2
    tried = len(kept[trials])
    killed_when("tuning trials", [], lambda: len(lines(trials)) > tried)
    stopped_when("timing blocks in nets", lambda: len(lines(visits)) > 4)
    # Passes of measurements that ended just before the Ctrl-C are in the journal instead.
    assert len(kept[visits]) > 3 or Journal(logs / "latency.jsonl").read()
    stopped_when("search: ", (out / "search/history.json").exists)
    assert "saving the checkpoint first" in told[-1]
    killed_when("search: ", ["tune"])
    stopped_when("training finalists")
    stopped_when("train: ", (out / "train/history.json").exists)
    assert "saving the checkpoint first" in told[-1]
    killed_when("train: ", ["tune", "search"])
    stopped_when("compiling the net", (out / "train/net.pt").exists)
    stopped_when("timing the net", (out / "package/package.json").exists)
    result = json.loads(Watched.start(*words).finish())

    records = [json.loads(line) for line in lines(trials)]
    ways = [(record["task"], json.dumps(record["knobs"])) for record in records if record["knobs"]]
    assert len(set(ways)) == len(ways) and not any(record["kind"] for record in records)
    measured = [item for item in Journal(logs / "latency.jsonl").read() if not item.arch]
    assert Counter(item.part for item in measured) == rows_of_one_run(tmp_path)
    assert all(item.tries == 12 for item in measured)
    assert result["kernels_found"] == result["kernels_needed"] > 0 and result["parity_error"] < 1e-3
    assert lines(trials) == kept[trials]
    check_files(out, result)
    assert json.loads(Watched.start(*words).finish()) == result, "nothing is left to do"

    # Search and training, never interrupted, on the same table: the same theta, the same net.
    _, loaded = load_recipe(str(recipe))
    space, values = load_space(loaded.space), json.loads((out / "table.json").read_text())
    table = LatencyTable.from_records(values["cells"], values["overhead_ms"], values["target"])
    undisturbed = search(space, tiny_data, table, loaded.search, tmp_path / "whole")
    thetas = [
        load_checkpoint(folder / "search.ckpt", "search")["searcher"]["supernet"]["theta"]
        for folder in (out / "search", tmp_path / "whole")
    ]
    assert torch.equal(*thetas) and undisturbed.best.arch == result["arch"]
    train(parse_arch(result["arch"], space), space, tiny_data, loaded.train, tmp_path / "net")
    nets = [load_checkpoint(folder / "net.pt", "net")["state_dict"] for folder in (out / "train", tmp_path / "net")]
    assert nets[0].keys() == nets[1].keys() and all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def check_files(out, result):
    """What a run's files say is what it printed."""
    page = out / "report/index.html"
    assert result == {**json.loads((out / "result.json").read_text()), "report": str(page)}
    package = json.loads((out / "package/package.json").read_text())
    assert package["parity"]["verdict"] == "passed" and package["latency"]["latency_ms"] == result["measured_ms"]
    assert result["predicted_ms"] > 0 and result["measured_ms"] > 0 and result["onnxruntime_ms"] > 0
    assert list(result["stage_seconds"]) == ["tune", "search", "train", "compile", "bench"]
    told = page.read_text()
    assert result["machine"] and f"<td>{result['machine']}</td>" in told and "<td>small</td>" in told
    assert f"tvmfbnet run {out}/recipe.yaml --out {out}-again" in told


def test_a_command_that_does_not_resume_does_not_promise_it(tmp_path):
    options = write_files(tmp_path)
    life = Watched.start("compile", "k3_e1,k3_e1/k3_e1", *options, "--out", str(tmp_path / "package"))
    life.wait_until(life.says("compiling the net"))
    seconds = life.interrupt()
    allowed, line = allowed_seconds(life.said)
    assert line == "interrupted: stopping (up to 3 s)\n" and seconds < allowed + SLACK_SECONDS
