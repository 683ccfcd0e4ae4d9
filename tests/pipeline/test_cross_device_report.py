"""Nets of two runs timed on each other's devices: by the command, resumable, nothing repeated, bad input refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from brief_target import host_values
from finished_runs import write_finished_run, write_json
from test_runs import recipe_values
from typer.testing import CliRunner

import tvmfbnet as tf
from tvmfbnet.cli import report
from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.pipeline.cross_device import CrossTimings
from tvmfbnet.pipeline.finished_runs import count_test_images, device_names, read_finished_runs
from tvmfbnet.profiling.net_latency import PASSES

ARCHS = {"float32": "k3_e1/skip,k3_e1", "float16": "k3_e3/k3_e3,skip"}


def command(*words):
    result = CliRunner().invoke(report.app, [*map(str, words)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def write_run(folder, target, space_file, data, dtype):
    """A finished run for this machine in one dtype."""
    recipe = {**recipe_values(space_file, data), "target": str(target), "dtype": dtype}
    del recipe["tune"]
    return write_finished_run(folder, recipe, ARCHS[dtype])


@pytest.fixture
def target(tmp_path):
    """This machine, timed briefly."""
    path = tmp_path / "host.yaml"
    path.write_text(yaml.safe_dump(host_values()))
    return path


@pytest.fixture
def runs(tmp_path, target, tiny_space_file, tiny_data):
    """Two runs on this machine, in two dtypes."""
    return [write_run(tmp_path / f"runs/{dtype}", target, tiny_space_file, tiny_data, dtype) for dtype in ARCHS]


class StoppedError(Exception):
    """Stands for a kill."""


def stop_in_second_device(event):
    """Stops the work after six passes on the second device."""
    stop_in_second_device.devices += isinstance(event, tf.WorkStarted) and event.work == "timing nets in turn"
    if stop_in_second_device.devices == 2 and event.__class__ is tf.WorkAdvanced and event.done == 6:
        raise StoppedError


@pytest.mark.rpc
@pytest.mark.slow
def test_two_nets_on_two_devices_killed_and_resumed(runs, tmp_path):
    out, logs = tmp_path / "cross", ("--tuning-logs", tmp_path / "logs")
    words = ("cross-device", *runs, "--out", out, *logs)
    planned = json.loads(command(*words, "--dry-run", "--json").stdout)
    assert (planned["due"], planned["estimated_seconds"]) == (4, 20.0) and not out.exists()
    assert {(item["net"], item["device"]) for item in planned["timings"]} == {
        (f"host {net}", f"host {device}") for net in ARCHS for device in ARCHS
    }
    stop_in_second_device.devices = 0
    with pytest.raises(StoppedError), tf.observing(stop_in_second_device):
        command(*words)
    finished = {path: path.read_bytes() for path in (out / "timings").iterdir()}
    passes = (out / "visits.jsonl").read_text()
    assert len(finished) == 2 and passes.count("\n") == 6
    assert json.loads(command(*words, "--dry-run", "--json").stdout)["due"] == 2

    seen = []
    with tf.observing(seen.append):
        said = " ".join(command(*words).stdout.split())
    timed = [event for event in seen if isinstance(event, tf.WorkStarted) and event.work == "timing nets in turn"]
    assert [(event.done, event.total) for event in timed] == [(6, 2 * PASSES)]
    assert not [event for event in seen if "compiling the net of" in getattr(event, "work", "")]
    assert {path: path.read_bytes() for path in finished} == finished
    assert not (out / "visits.jsonl").exists() and not (out / "packages").exists()
    assert f"report: {out / 'index.html'}" in said and (out / "index.html").is_file()

    shown = json.loads((out / "cross_device.json").read_text())
    assert [device["dtype"] for device in shown["devices"]] == list(ARCHS)
    for net, arch in zip(shown["nets"], ARCHS.values(), strict=True):
        assert (net["arch"], net["accuracy"], net["test_images"]) == (arch, 0.5, 40)
        assert net["best_at_home"] in (True, False, None)
        assert net["verdict"] in said and f"net for {net['found_for']}: {arch}" in said
        for timing in net["latency"].values():
            bounds = timing["interval"]
            assert 0 < bounds["low_ms"] < timing["latency_ms"] < bounds["high_ms"]
            assert (timing["basis"], bounds["visits"]) == ("measured", PASSES)
    assert shown["operators"]["n"] > 5 and shown["operators"]["names"] == [f"host {dtype}" for dtype in ARCHS]

    # All is there: no device is asked.
    seen.clear()
    timings = CrossTimings(read_finished_runs(runs), out, tmp_path / "logs")
    with tf.observing(seen.append):
        assert all(timing.record is not None for timing in timings.time_due())
    assert [event.text for event in seen] == ["all 4 timings were made before"]
    due = command(*words, "--dry-run").stdout
    assert due.count(" done ") == 4 and "0 of 4 timings are due: nothing" in due

    file = next(iter(finished))
    file.write_text('{"arch": "k3')
    with pytest.raises(StorageError, match=f"{file.name}.*; remove it and run again"):
        command(*words)


def test_what_a_comparison_reads_of_a_run(runs):
    first, second = read_finished_runs(runs)
    assert device_names((first, second)) == ("host float32", "host float16")
    assert (first.dtype, second.dtype, first.seconds_per_net) == ("float32", "float16", 5.0)
    assert count_test_images(first) == 40
    net = first.net("here", 40)
    assert (net.arch, net.accuracy, net.home) == (ARCHS["float32"], 0.5, "here") and net.params > 0 and net.macs > 0
    gone = replace(first, recipe=first.recipe.model_copy(update={"data": "fashion_mnist:nowhere"}))
    assert count_test_images(gone) is None


def test_runs_that_cannot_be_compared_are_refused_in_one_line(runs, target, tiny_space_file, tmp_path):
    def refused(*folders):
        with pytest.raises(UserError) as caught:
            command("cross-device", *folders, "--out", tmp_path / "cross", "--dry-run")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "needs two runs or more" in refused(runs[0])
    assert "are both runs for target host" in refused(runs[0], runs[0])
    assert "there is no run folder" in refused(runs[0], tmp_path / "nowhere")
    elsewhere = write_run(tmp_path / "elsewhere", target, tiny_space_file, "cifar10", "float16")
    assert "accuracies on different data cannot be compared" not in refused(runs[0], elsewhere, runs[0])
    write_json(elsewhere / "identity.json", {"data": "1" * 32})
    assert "accuracies on different data cannot be compared" in refused(runs[0], elsewhere)

    write_json(runs[1] / "identity.json", {"data": "0" * 32, "target": "0123456789abcdef"})
    assert "another content of target" in refused(*runs)
    result = json.loads((runs[0] / "result.json").read_text())
    write_json(runs[0] / "result.json", {**result, "test_accuracy": None})
    assert "no test accuracy of its net" in refused(*runs)
    (runs[0] / "result.json").unlink()
    said = refused(*runs)
    assert "is not a finished run: finish it with `tvmfbnet run" in said and str(runs[0] / "recipe.yaml") in said


def test_a_report_of_one_run_is_asked_for_as_ever(runs, tmp_path, monkeypatch):
    for words in ((runs[0], "--json"), ("--json", runs[0]), ("page", runs[0], "--json")):
        assert json.loads(command(*words).stdout)["page"] == str(runs[0] / "report/index.html")
    # A run's folder may be called as a command is.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs[0], "cross-device")
    assert "cross-device/report/index.html" in command("cross-device").stdout
    with pytest.raises(UserError, match="there is no run folder runs/absent"):
        command("runs/absent")


def test_random_weights_differ_from_run_to_run_in_what_the_timings_are_stored_by(runs, tmp_path):
    def files():
        return [timing.file for timing in CrossTimings(read_finished_runs(runs), tmp_path / "out", tmp_path).plan()]

    before = files()
    assert len(set(before)) == 4
    path = runs[0] / "train/net.pt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"] = {name: 2 * value for name, value in saved["state_dict"].items()}
    torch.save(saved, path)
    after = files()
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, False, True]
