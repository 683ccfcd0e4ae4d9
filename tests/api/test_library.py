"""Library calls promise: no output, typed events, log records, and a process that is as it was before."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from brief_target import write_host
from forked import run_command

import tvmfbnet as tf
from tvmfbnet import advice, process
from tvmfbnet.cli.main import main
from tvmfbnet.cli.terminal import as_command, shown
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.progress import loading, observed, progress, say, step
from tvmfbnet.space.counts import count_part

STATE = Path(__file__).with_name("process_state.py")
SETTINGS = {"epochs": 2, "batch_size": 32, "samples": 4, "candidates": 2, "bn_images": 32, "threads": 1}


RECIPE = {"description": "d", "target": "host", "space": "fbnet_mini", "data": "fashion_mnist"}
RECIPE |= {"search": {}, "train": {}}


def table_of(space):
    return LatencyTable({part: Cell(1e-6 + 1e-7 * count_part(part).macs) for part in space.distinct_parts()}, 0.01)


@pytest.fixture
def silent():
    """No observer and no handler, as in a program that imports the package."""
    logger = logging.getLogger("tvmfbnet")
    handlers, level, propagates = list(logger.handlers), logger.level, logger.propagate
    for handler in handlers:
        if not isinstance(handler, logging.NullHandler):
            logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    with observed(None):
        yield
    logger.handlers, logger.propagate = handlers, propagates
    logger.setLevel(level)


@pytest.mark.slow
@pytest.mark.rpc
def test_a_call_prints_nothing_and_leaves_the_process_as_it_was(tiny_data, tmp_path):
    folder = Path(tiny_data.partition(":")[2])
    write_table(table_of(tf.Space.load("fbnet_mini")), folder / "table.csv")
    write_host(folder)
    words = [sys.executable, STATE, folder]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    # A warning of another package is not ours to silence; nothing of ours is on either stream.
    assert len(done.stdout.splitlines()) == 1 and "tvmfbnet" not in done.stderr
    assert json.loads(done.stdout) == {"changed": {"search": {}, "bench": {}}, "kept": False}


@pytest.mark.slow
def test_a_command_owns_its_process_and_keeps_freed_memory(tiny_space, tiny_space_file, tiny_data, tmp_path):
    write_table(table_of(tiny_space), tmp_path / "table.csv")
    code = "from tvmfbnet.training import memory\nfrom tvmfbnet.cli.main import main\n"
    code += "memory._set = lambda *policy: print('kept', policy) or True\nmain({words})"
    words = ["search", "--space", tiny_space_file, "--data", tiny_data, "--latency-table", tmp_path / "table.csv"]
    words += ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "32", "--out", tmp_path / "search"]
    done = run_command(["-c", code.replace("{words}", repr(list(map(str, words))))])
    assert done.returncode == 0 and "kept" in done.stdout, done.stderr
    assert not process.is_owned()
    with as_command():
        assert process.is_owned()
    assert not process.is_owned()


def test_a_search_tells_its_steps_and_what_it_says_is_logged(tiny_space, tiny_data, tmp_path, silent, caplog, capsys):
    events = []
    with caplog.at_level(logging.INFO, logger="tvmfbnet"):
        result = tf.search(
            tiny_space, tiny_data, table_of(tiny_space), SETTINGS, out=tmp_path / "out", on_progress=events.append
        )
    assert capsys.readouterr() == ("", "")
    assert tf.parse_arch(result.best.arch, tiny_space).blocks
    steps = [event for event in events if not isinstance(event, tf.Message) and event.work == "search"]
    assert isinstance(steps[0], tf.WorkStarted) and isinstance(steps[-1], tf.WorkEnded)
    assert [event.done for event in steps[1:-1]] == list(range(1, steps[0].total + 1))
    assert steps[-1].done == steps[-1].total and all(event.depth == 0 for event in steps)
    told = [event for event in events if isinstance(event, tf.Message)]
    logged = [record for record in caplog.records if record.name.startswith("tvmfbnet.")]
    assert [(record.levelno, record.getMessage()) for record in logged] == [(m.level, m.text) for m in told] != []
    assert {"tvmfbnet.search.search"} <= {record.name for record in logged}


def test_a_callback_that_raises_stops_the_search_which_then_resumes(tiny_space, tiny_data, tmp_path, silent):
    def stop(event):
        if isinstance(event, tf.WorkAdvanced) and event.work == "search" and event.done == event.total - 1:
            raise KeyError("enough")

    settings = {**SETTINGS, "checkpoint_steps": 1}
    arguments = (tiny_space, tiny_data, table_of(tiny_space), settings)
    with pytest.raises(KeyError, match="enough"):
        tf.search(*arguments, out=tmp_path / "stopped", on_progress=stop)
    events = []
    resumed = tf.search(*arguments, out=tmp_path / "stopped", on_progress=events.append)
    started = next(event for event in events if isinstance(event, tf.WorkStarted) and event.work == "search")
    assert started.done == started.total - 1
    whole = tf.search(*arguments, out=tmp_path / "whole")
    assert (resumed.best, resumed.theta) == (whole.best, whole.theta)


def test_events_nest_and_a_step_that_fails_ends(silent):
    events = []
    with pytest.raises(ValueError), tf.observing(events.append), progress("outer", 3, done=1) as outer, step("inner"):
        outer.advance(note="best 2 ms")
        raise ValueError
    told = [(type(event).__name__, event.work, event.done, event.total, event.status, event.depth) for event in events]
    assert told == [
        ("WorkStarted", "outer", 1, 3, "", 0),
        ("WorkStarted", "inner", 0, None, "", 1),
        ("WorkAdvanced", "outer", 2, 3, "best 2 ms", 0),
        ("WorkEnded", "inner", 0, None, "", 1),
        ("WorkEnded", "outer", 2, 3, "best 2 ms", 0),
    ]
    with loading("PyTorch"):
        assert len(events) == len(told), "after the block the callback is not called any more"


def test_each_thread_has_an_observer_of_its_own(silent):
    here, there = [], []

    def work():
        with tf.observing(there.append), progress("there", 1) as reporter:
            reporter.advance()

    with tf.observing(here.append):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert here == [] and [event.work for event in there] == ["there"] * 3


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        ("warning: disk is full", logging.WARNING, "disk is full"),
        ("note: 3 parts are predicted", logging.INFO, "3 parts are predicted"),
        ("search: 3 steps", logging.INFO, "search: 3 steps"),
    ],
)
def test_lines_are_log_records_and_commands_print_them_as_they_are(line, level, text, silent, caplog, capsys):
    with caplog.at_level(logging.INFO):
        say(line)
    assert capsys.readouterr() == ("", "")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage(), record.pathname) == (level, text, __file__)
    with shown(), shown():
        say(line)
    assert capsys.readouterr().err == f"{line}\n", "once, however often it is switched on"
    say(line)
    assert capsys.readouterr() == ("", "")


def test_a_plain_log_record_of_the_library_is_printed_by_commands(silent, capsys):
    with shown():
        logging.getLogger("tvmfbnet.data.loader").warning("the disk is slow")
        logging.getLogger("tvmfbnet.data.loader").debug("4 images")
    assert capsys.readouterr().err == "warning: the disk is slow\n"


def test_what_a_call_noted_for_its_advice_is_forgotten_after_it(tiny_space, tmp_path):
    with pytest.raises(tf.UserError):
        tf.tune("fbnet_mini", "host", {"blocks": "k9_*"}, tuning_logs=tmp_path)
    assert dict(advice._given.get()) == {}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: tf.tune("fbnet_mini", "host", {"trails": 3}), "tuning options: trails: unknown name"),
        (lambda out: tf.tune("fbnet_mini", "host", {"arch": "k3_e1"}), "unknown arch 'k3_e1'"),
        (lambda out: tf.tune("fbnet_mini", "hots"), "did you mean host?"),
        (lambda out: tf.search("fbnet_mini", "fashion_mnist", "t.csv", {"epochs": 0}), "search settings: epochs"),
        (lambda out: tf.search("fbnet_min", "fashion_mnist", "t.csv"), "did you mean fbnet_mini?"),
        (lambda out: tf.train("fbnet_d", "fbnet", "fashion_mnist"), "unknown arch 'fbnet_d'"),
        (lambda out: tf.train("fbnet_c", "fbnet", "fashion_mnist", {"lr": -1}), "training settings: lr"),
        (lambda out: tf.run("dmeo"), "did you mean demo?"),
        (lambda out: tf.run({"target": "host"}, out=out), "recipe: 5 problems"),
        (lambda out: tf.run(tf.Recipe.model_validate(RECIPE)), "needs a folder: say out="),
        (
            lambda out: tf.compile("fbnet_c", "fbnet", "host", {"build_only": True, "latency_target_ms": 8}, out=out),
            "no verdict on latency_target_ms",
        ),
        (lambda out: tf.compile("fbnet_c", "fbnet_mini", "host", out=out), "does not fit space fbnet_mini"),
        (
            lambda out: tf.compile("fbnet_c", "fbnet", "host", {"checkpoint": str(out / "no.pt")}, out=out),
            "no.pt is missing",
        ),
    ],
)
def test_bad_arguments_are_one_clear_line(call, said, tmp_path):
    with pytest.raises(tf.UserError) as caught:
        call(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_command_that_runs_within_a_program_shows_its_lines_and_puts_everything_back(silent, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["targets", "show", "host"])
    shown_there = capsys.readouterr()
    assert "name" in shown_there.out
    say("note: nobody looks")
    assert capsys.readouterr() == ("", "")
