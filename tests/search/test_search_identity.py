"""A search continues on the same data wherever it lies, alone in its folder; finalists belong to one search."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_search_run import TINY, table_of
from tiny import write_tiny_data

from tvmfbnet.errors import DataError, OutOfMemoryError, StorageError, UserError
from tvmfbnet.files import folder_lock
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.result import read_result
from tvmfbnet.search.search import choose_again, reopen, sample_run, search
from tvmfbnet.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def searched(once, tmp_path):
    """A finished search's folder."""
    once.copy("search", lambda folder: continued(once.space, once.data, folder), tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def tiny_data(once):
    """What was searched on."""
    return once.data


@pytest.fixture
def own_data(tmp_path):
    """A data set that a test may damage or move."""
    return write_tiny_data(tmp_path)


def continued(tiny_space, data, out, **changes):
    return search(tiny_space, data, table_of(tiny_space), SearchConfig(**{**TINY, **changes}), out)


def another(folder: Path, copy: Path) -> Path:
    """A copy of a data set with one byte of one image changed."""
    shutil.copytree(folder, copy)
    images = copy / "train-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(images.read_bytes()))
    content[-1] ^= 1
    images.write_bytes(gzip.compress(bytes(content)))
    return copy


def test_a_data_set_that_moved_continues_the_search_its_samples_and_its_choice(tiny_space, own_data, tmp_path):
    searched = tmp_path / "out"
    continued(tiny_space, own_data, searched)
    before = (searched / "archs.json").read_text()
    drawn = sample_run(searched, 3, 0, validate=True)
    other = another(tmp_path / "images", tmp_path / "other")
    shutil.move(tmp_path / "images", tmp_path / "moved")
    with pytest.raises(DataError, match=r"Fashion-MNIST is missing.*images.*if it has moved, say where with --data"):
        sample_run(searched, 3, 0, validate=True)
    for place in (str(tmp_path / "moved"), f"fashion_mnist:{tmp_path}/moved/"):
        assert sample_run(searched, 3, 0, validate=True, data_spec=place) == drawn
    assert choose_again(searched, target_ms=0.09, data_spec=str(tmp_path / "moved"))
    with pytest.raises(DataError, match=r"other is not the data set of the search .*content differs.*--data"):
        sample_run(searched, 3, 0, validate=True, data_spec=str(other))
    with pytest.raises(DataError, match=r"other is not the data set that .*search\.ckpt was made with"):
        continued(tiny_space, f"fashion_mnist:{other}", searched)
    continued(tiny_space, f"fashion_mnist:{tmp_path}/moved", searched)
    assert (searched / "archs.json").read_text() == before
    assert sample_run(searched, 3, 0, validate=True) == drawn, "the new place is known from now on"


def test_another_searchs_folder_is_refused_before_the_data_set_is_read(searched, tiny_space, own_data, tmp_path):
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(StorageError, match=r"search\.ckpt belongs to a run with other settings \(.*space had other"):
        continued(tiny_space.with_last_channels(16), own_data, searched)
    with pytest.raises(DataError, match="get the file again"):
        continued(tiny_space, own_data, searched)


def test_a_search_of_an_earlier_version_continues_under_the_name_it_knows(searched, tiny_space, tiny_data):
    saved = load_checkpoint(searched / "search.ckpt", "search")
    identity = {**saved["identity"], "data": tiny_data, "space": tiny_space.to_dict()}
    save_checkpoint(searched / "search.ckpt", "search", {"identity": identity, "searcher": saved["searcher"]})
    record = json.loads((searched / "search.json").read_text())
    del record["fingerprint"]
    (searched / "search.json").write_text(json.dumps(record))
    assert sample_run(searched, 2, 0, validate=True)
    continued(tiny_space, tiny_data, searched)
    with pytest.raises(DataError, match=r"earlier version.*give --data"):
        continued(tiny_space, tiny_data + "/", searched)


def test_a_search_from_before_constraints_and_strategies_is_read_and_continued(searched, tiny_space, tiny_data):
    before = sample_run(searched, 3, 0, validate=True), choose_again(searched, target_ms=0.09)
    record = json.loads((searched / "search.json").read_text())
    for name in ("strategy", "cost_models", "spent_images"):
        del record[name]
    del record["best"]["constraints"]
    for name in ("strategy", "constraints", "budget_images"):
        del record["config"][name]
    (searched / "search.json").write_text(json.dumps(record))
    saved = load_checkpoint(searched / "search.ckpt", "search")
    assert not {"strategy", "constraints", "budget_images"} & set(saved["identity"]), "as earlier versions wrote it"
    del saved["searcher"]["multipliers"]
    save_checkpoint(searched / "search.ckpt", "search", {name: saved[name] for name in ("identity", "searcher")})
    assert (sample_run(searched, 3, 0, validate=True), choose_again(searched, target_ms=0.09)) == before
    continued(tiny_space, tiny_data, searched)
    with pytest.raises(StorageError, match="constraints was none, now params<=1k"):
        continued(tiny_space, tiny_data, searched, constraints=["params<=1k"])


def test_who_comes_second_to_a_folder_is_refused(searched, tiny_space, tiny_data):
    code = "import sys, time; from pathlib import Path; from tvmfbnet.files import folder_lock\n"
    code += "with folder_lock(Path(sys.argv[1]), 'x'):\n print('held', flush=True)\n time.sleep(100)"
    other = subprocess.Popen([sys.executable, "-c", code, str(searched)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for attempt in (lambda: continued(tiny_space, tiny_data, searched), lambda: choose_again(searched, 1.0, 0.09)):
            with pytest.raises(StorageError, match=r"a search is already active in .*out in another process"):
                attempt()
        assert sample_run(searched, 2, 0, validate=True), "who only reads is let in"
    finally:
        other.kill()
        other.wait()
    (searched / ".search.ckpt.0123abcd.tmp").write_bytes(b"half")
    (searched / ".finalists.json.0123abcd.tmp").write_bytes(b"half")
    continued(tiny_space, tiny_data, searched)
    assert not list(searched.glob(".*.tmp"))
    with folder_lock(searched, "a test"):
        pass


RECORD_DAMAGES = {
    "no record": [],
    "theta is a text": {"theta": "0.5"},
    "theta of another space": {"theta": [[0.0]]},
    "theta is not a number": {"theta": [["a"] * 4] * 3},
    "the best arch is of another space": {"best": {"arch": "k9", "probability": 0.5, "predicted_ms": 1.0}},
    "the best is a text": {"best": "k3_e1"},
    "no space": {"space": {"layers": 5}},
    "no latencies": {"costs": {"cells_ms": 3}},
    "no settings": {"config": None},
    "settings of another kind": {"config": {"epochs": "many"}},
    "no data": {"data": 7},
    "more than there should be": {"surprise": 1},
}


@pytest.mark.parametrize("damage", RECORD_DAMAGES.values(), ids=RECORD_DAMAGES)
def test_a_damaged_outcome_is_one_line_that_names_the_file(searched, damage):
    record = json.loads((searched / "search.json").read_text())
    (searched / "search.json").write_text(json.dumps({**record, **damage} if isinstance(damage, dict) else damage))
    with pytest.raises(UserError, match=r"search\.json") as caught:
        sample_run(searched, 3, 0, validate=True)
    assert "\n" not in str(caught.value)


STATE_DAMAGES = {
    "epoch is a text": ("epoch", "2"),
    "epoch beyond the last": ("epoch", 10**6),
    "step beyond the epoch": ("step", 10**6),
    "no history": ("history", []),
    "history of something else": ("history", [{"epoch": 1}] * 3),
    "other sums": ("sums", {"loss": 1.0}),
    "no generator": ("generator", torch.zeros(2)),
    "theta of another space": ("supernet", {"theta": torch.zeros(1, 1)}),
    "no moments": ("theta_optimiser", {"state": {0: {"step": torch.tensor(-1.0)}}}),
    "no batches": ("weight_batches", {}),
}


@pytest.mark.parametrize(("name", "value"), STATE_DAMAGES.values(), ids=STATE_DAMAGES)
def test_a_checkpoint_with_a_wrong_value_is_one_line_to_search_and_sample(searched, tiny_space, tiny_data, name, value):
    saved = load_checkpoint(searched / "search.ckpt", "search")
    state = {"identity": saved["identity"], "searcher": {**saved["searcher"], name: value}}
    save_checkpoint(searched / "search.ckpt", "search", state)
    for use in (lambda: continued(tiny_space, tiny_data, searched), lambda: sample_run(searched, 2, 0, validate=True)):
        with pytest.raises(StorageError, match=r"search\.ckpt is damaged or of another version") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_memory_that_runs_out_while_archs_are_judged_is_told_with_advice(searched):
    folder, record = read_result(searched)
    told = r"judging archs ran out of memory \(asked for .* GiB more\).*bn_images"
    with pytest.raises(OutOfMemoryError, match=told), reopen(folder, record):
        torch.empty(2**46)


FINALS = {"finalists": 6, "finalist_steps": 30, "target_tolerance": 0.3, "latency_target_ms": 0.1}

CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_search_run import table_of
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.search import search
from tvmfbnet.space.registry import load_space
space = load_space({space!r})
search(space, {data!r}, table_of(space), SearchConfig(**json.loads({config!r})), Path({out!r}))
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_the_finalists_it_ends_the_same(tiny_space, tiny_space_file, tiny_data, tmp_path):
    continued(tiny_space, tiny_data, tmp_path / "whole", **FINALS)
    values = {"space": str(tiny_space_file), "data": tiny_data, "out": str(tmp_path / "killed")}
    code = CHILD.format(folder=str(Path(__file__).parent), config=json.dumps({**TINY, **FINALS}), **values)
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    file, deadline = tmp_path / "killed/finalists.json", time.monotonic() + 120
    while not file.exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert len(json.loads(file.read_text())["accuracies"]) < 6, "killed before the last one"
    continued(tiny_space, tiny_data, tmp_path / "killed", **FINALS)
    for name in ("archs.json", "finalists.json"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_finalists_of_another_search_are_trained_again_and_said(tiny_space, tiny_data, tmp_path, capsys):
    settings = {**FINALS, "finalist_steps": 3}
    continued(tiny_space, tiny_data, tmp_path / "whole", **settings)
    file = tmp_path / "out/finalists.json"
    for name, old in (
        ("another seed", json.loads((tmp_path / "whole/finalists.json").read_text())),
        ("no identity", dict.fromkeys(("k3_e1/k3_e1,k3_e1", "skip/skip,skip"), 0.99)),
    ):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        if name == "another seed":
            old["identity"]["seed"] = 5
            old["accuracies"] = dict.fromkeys(old["accuracies"], 0.99)
        file.write_text(json.dumps(old))
        continued(tiny_space, tiny_data, tmp_path / "out", **settings)
        said = " ".join(capsys.readouterr().err.split())
        assert "finalists.json" in said and "trained again" in said
        assert ("seed was 5, now 0" in said) == (name == "another seed")
        assert file.read_text() == (tmp_path / "whole/finalists.json").read_text()
        assert (tmp_path / "out/archs.json").read_text() == (tmp_path / "whole/archs.json").read_text()
    file.write_text('{"identity": 3}')
    with pytest.raises(StorageError, match=r"finalists\.json is damaged"):
        continued(tiny_space, tiny_data, tmp_path / "out", **settings)


@pytest.mark.parametrize("form", ["mixture", "two_path", "sampled"])
def test_a_search_in_bfloat16_ends_about_where_one_in_float32_does(tiny_space, tiny_data, tmp_path, form):
    outcomes = {}
    for precision in ("float32", "bfloat16"):
        settings = {"weight_steps": form, "theta_steps": form, "precision": precision, "stop_on_collapse": False}
        result = continued(tiny_space, tiny_data, tmp_path / precision, **settings, save_memory=form == "mixture")
        history = json.loads((tmp_path / precision / "history.json").read_text())
        outcomes[precision] = ([record["weight_loss"] for record in history], result)
    (exact, plain), (rough, other) = outcomes.values()
    assert rough == pytest.approx(exact, rel=0.05) and rough != exact
    for row, wanted in zip(other.theta, plain.theta, strict=True):
        assert row == pytest.approx(wanted, abs=0.05)
    assert 0 <= other.best.accuracy <= 1
