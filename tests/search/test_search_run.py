import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import groupby

import pytest
import torch

from tvmfbnet.errors import ConfigError, ConstraintError, LatencyError, StorageError
from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.forecast import SearchPlan
from tvmfbnet.search.search import choose_again, sample_run, search
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.checkpoint import load_checkpoint

TINY = {
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 16,
    "threads": 1,
    "device": "cpu",
    "checkpoint_steps": 1,
    "candidates": 3,
    "samples": 20,
}

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


def table_of(space):
    """A table in which a part costs 0.01 ms and 1 ms a million MACs."""
    cells = {part: Cell(0.01 + count_part(part).macs / 1e6) for part in space.distinct_parts()}
    return LatencyTable(cells, overhead_ms=0.005, name="by hand")


def figures(out):
    history = json.loads((out / "history.json").read_text())
    return [{k: v for k, v in record.items() if k not in ("seconds", "data_wait")} for record in history]


def test_a_search_leaves_its_archs_its_history_and_its_outcome(tiny_space, tiny_data, tmp_path):
    table = table_of(tiny_space)
    result = search(tiny_space, tiny_data, table, SearchConfig(**TINY), tmp_path / "out")
    arch = parse_arch(result.best.arch, tiny_space)
    assert result.best.predicted_ms == pytest.approx(table.arch_ms(arch, tiny_space))
    assert result.measured_share == 1.0 and len(result.candidates) == 3
    assert result.best.accuracy == max(candidate.accuracy for candidate in result.candidates)
    assert [item["arch"] for item in json.loads((tmp_path / "out/archs.json").read_text())] == [
        candidate.arch for candidate in result.candidates
    ]
    assert len(figures(tmp_path / "out")) == 3
    again = search(tiny_space, tiny_data, table, SearchConfig(**TINY), tmp_path / "out")
    assert again == result, "started again when done, it gives the same"


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_theta(tiny_space_file, tiny_space, tiny_data, tmp_path):
    config = {**TINY, "epochs": 6}
    whole = search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**config), tmp_path / "whole")
    out = tmp_path / "killed"
    code = CHILD.format(
        folder=os.path.dirname(__file__),  # noqa: PTH120
        space=str(tiny_space_file),
        data=tiny_data,
        config=json.dumps(config),
        out=str(out),
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        wait_for_the_middle_of_an_epoch(out / "search.ckpt", child)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    saved = load_checkpoint(out / "search.ckpt", "search")["searcher"]
    assert saved["epoch"] < 6, "it was killed before the end"
    assert not (out / "search.json").exists()
    result = search(load_space(str(tiny_space_file)), tiny_data, table_of(tiny_space), SearchConfig(**config), out)
    assert figures(out) == figures(tmp_path / "whole")
    assert result.theta == whole.theta and result.candidates == whole.candidates
    states = [load_checkpoint(f / "search.ckpt", "search")["searcher"]["supernet"] for f in (out, tmp_path / "whole")]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def wait_for_the_middle_of_an_epoch(path, child):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        if path.exists():
            state = load_checkpoint(path, "search")["searcher"]
            if state["epoch"] >= 2 and state["step"] > 0:
                return
        time.sleep(0.01)
    pytest.fail("the search never came to the middle of its third epoch")


def test_an_unreachable_target_is_refused_before_anything_is_written(tiny_space, tiny_data, tmp_path):
    with pytest.raises(ConstraintError, match=r"reachable are .* to .* ms"):
        search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(latency_target_ms=0.01), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_lacks_blocks_is_refused_with_their_names(tiny_space, tiny_data, tmp_path):
    cells = dict(table_of(tiny_space).cells)
    lost = tiny_space.layers[1].part("k3_e3")
    del cells[lost]
    with pytest.raises(LatencyError, match=lost.name):
        search(tiny_space, tiny_data, LatencyTable(cells, 0.0, "holes"), SearchConfig(**TINY), tmp_path)


def test_candidates_are_within_the_target(tiny_space, tiny_data, tmp_path):
    table = table_of(tiny_space)
    low, high = table.range_ms(tiny_space)
    target = low + 0.3 * (high - low)
    result = search(tiny_space, tiny_data, table, SearchConfig(**TINY, latency_target_ms=target), tmp_path)
    assert all(candidate.predicted_ms <= target for candidate in result.candidates)
    assert all(candidate.predicted_ms <= target for candidate in sample_run(tmp_path, 20, 0, target))


def test_the_choice_is_repeated_for_slower_blocks_and_for_another_target(tiny_space, tiny_data, tmp_path):
    table = table_of(tiny_space)
    low, high = table.range_ms(tiny_space)
    target = low + 0.6 * (high - low)
    search(tiny_space, tiny_data, table, SearchConfig(**TINY, latency_target_ms=target), tmp_path)

    def by_table(arch):
        return table.arch_ms(parse_arch(arch, tiny_space), tiny_space)

    slower = choose_again(tmp_path, 1.2)
    assert all(0.9 * target < 1.2 * by_table(candidate.arch) <= target for candidate in slower)
    elsewhere = choose_again(tmp_path, target_ms=low + 0.3 * (high - low))
    assert all(candidate.predicted_ms == pytest.approx(by_table(candidate.arch)) for candidate in elsewhere)
    assert all(candidate.predicted_ms <= low + 0.3 * (high - low) for candidate in elsewhere)
    with pytest.raises(ConstraintError, match="reachable are"):
        choose_again(tmp_path, target_ms=0.9 * low)


def test_a_search_with_other_settings_is_not_continued(tiny_space, tiny_data, tmp_path):
    search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY), tmp_path)
    with pytest.raises(StorageError, match=r"seed was 0, now 1"):
        search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY, seed=1), tmp_path)
    (tmp_path / "search.ckpt").write_bytes(b"torn")
    with pytest.raises(StorageError, match="not a readable checkpoint"):
        search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY), tmp_path)


def test_sampling_a_run_gives_distinct_archs_with_their_latency(tiny_space, tiny_data, tmp_path):
    table = table_of(tiny_space)
    search(tiny_space, tiny_data, table, SearchConfig(**TINY), tmp_path / "run/search")
    drawn = sample_run(tmp_path / "run", 5, seed=0)
    assert len({candidate.arch for candidate in drawn}) == 5
    for candidate in drawn:
        expected = table.arch_ms(parse_arch(candidate.arch, tiny_space), tiny_space)
        assert candidate.predicted_ms == pytest.approx(expected)
    assert drawn == sample_run(tmp_path / "run", 5, seed=0)
    with pytest.raises(StorageError, match="no finished search"):
        sample_run(tmp_path, 5, seed=0)


def test_a_warm_up_that_leaves_no_epoch_is_refused():
    with pytest.raises(ConfigError, match=r"SearchConfig: .*leaves no epoch"):
        SearchConfig(epochs=5, warmup_epochs=5)


@pytest.mark.usefixtures("every_update")
def test_progress_counts_steps_and_nothing_else(tiny_space, tiny_data, tmp_path, capsys):
    config = SearchConfig(**TINY, finalists=4, finalist_steps=3)
    search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path)
    said = capsys.readouterr().err
    assert "epoch" not in "".join(line for line in said.splitlines() if not line.startswith("warning"))
    counted = re.findall(r"^search: ([0-9]+)/([0-9]+) ", said, re.M)
    steps = SearchPlan.of(config, 120)
    total = steps.warmup_steps + steps.weight_steps + steps.theta_steps
    # A slow step is told a second time, as a sign of life.
    assert [count for count, _ in groupby(counted)] == [(str(step), str(total)) for step in range(total + 1)]
    assert len(re.findall(r"^training finalists: [0-9]+/12 .*best", said, re.M)) > 6
    search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path)
    again = capsys.readouterr().err
    assert f"search: all {total} steps in {tmp_path} were done before" in again and "resuming" not in again
