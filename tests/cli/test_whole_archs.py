"""An arch is never wrapped or cut, on a terminal of 80 columns and in a pipe: it can be copied from every command."""

import os
import pty
import re
import select

import pytest
from forked import run_command, start_command

from tvmfbnet.latency.cells import Cell
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import write_table
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space

SPACE = "fbnet@32,channels=1,classes=10"  # 22 layers: an arch is longer than a line
QUICK = ["--epochs", "2", "--warmup-epochs", "1", "--batch-size", "16", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table of the large space and settings of a small search."""
    folder, space = tmp_path_factory.mktemp("whole"), load_space(SPACE)
    cells = {part: Cell(0.01 + count_part(part).macs / 1e6) for part in space.distinct_parts()}
    write_table(LatencyTable(cells, 0.005), folder / "table.csv")
    (folder / "search.yaml").write_text(
        "{train_images: 40, candidates: 2, screened: 2, bn_images: 16, weight_steps: sampled, theta_steps: sampled}\n"
    )
    return folder


def printed(folder, words, terminal):
    """Stdout of a command, on a terminal of 80 columns or in a pipe; stderr is left alone."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
    if not terminal:
        done = run_command(words, folder, environment)
        assert done.returncode == 0, done.stderr
        return done.stdout
    ours, theirs = pty.openpty()
    process = start_command(words, folder, environment, (os.ttyname(theirs), os.devnull))
    shown, has_ended = b"", False
    while not has_ended or select.select([ours], [], [], 0)[0]:
        has_ended = process.poll() is not None
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_archs_are_whole_in_every_command_that_shows_some(place, terminal):
    layers, archs = len(load_space(SPACE).layers), {}
    out, table = "s", ["--latency-table", "table.csv"]  # the second search has nothing left to do but to show
    search = ["search", "--space", SPACE, "--data", "fashion_mnist", *table, "--config", "search.yaml", *QUICK]
    for words in (
        [*search, "--out", out],
        ["sample", out, "-n", "3", "--no-validate"],
        ["arch", "describe", "fbnet_c", "--space", SPACE, *table],
    ):
        text = printed(place, words, terminal)
        shown_archs = re.findall(r"(?:k[0-9]_e[0-9]|skip)[a-z0-9_]*(?:[,/](?:k[0-9]_e[0-9]|skip)[a-z0-9_]*)+", text)
        archs[words[0]] = [arch for arch in shown_archs if len(re.split("[,/]", arch)) == layers]
        pieces = [arch for arch in shown_archs if len(re.split("[,/]", arch)) != layers]
        assert not pieces, f"{words[0]} cuts archs: {pieces}"
    assert len(archs["search"]) == 3 and len(archs["sample"]) == 3 and len(archs["arch"]) == 1


def test_the_table_of_a_run_leaves_its_arch_on_a_line_of_its_own(capsys):
    from tvmfbnet.cli.output import print_table
    from tvmfbnet.cli.run import result_rows

    values = dict.fromkeys(("verdict", "onnxruntime_ms", "speed_factor"))
    values |= dict.fromkeys(("measured_ms", "predicted_ms", "measured_share", "parity_error", "test_accuracy"), 0.5)
    values |= {
        "interval": {"low_ms": 0.4, "high_ms": 0.6},
        "stage_seconds": {},
        "kernels_found": 1,
        "kernels_needed": 1,
    }
    values |= {"arch": "k3_e1", "notices": [{"kind": "few_images", "text": "few images"}]}
    rows = result_rows(values)
    assert ("warning", "few images") in rows and not any("k3_e1" in cell for row in rows for cell in row)
    print_table("", ("what", "result"), rows)
    assert "few images" in capsys.readouterr().out


def test_the_table_of_a_run_on_a_simulated_device_calls_no_latency_measured():
    from tvmfbnet.cli.run import result_rows
    from tvmfbnet.latency.origin import timed_latency

    values = dict.fromkeys(("verdict", "onnxruntime_ms", "speed_factor"))
    values |= dict.fromkeys(("predicted_ms", "parity_error", "test_accuracy"), 0.5) | timed_latency("simulated", 0.6)
    values |= {"interval": {"low_ms": 0.6, "high_ms": 0.6, "visits": 1}, "stage_seconds": {}, "measured_share": 0.0}
    values |= {"kernels_found": 1, "kernels_needed": 1}
    values |= {"latency_source": {"kind": "target", "name": "sim_a76", "simulated": True}}
    turn = {"turn": 1, "predicted_ms": 0.5, "interval": values["interval"], "verdict": "met", "next": "no other net"}
    values |= {"closed_loop": {"why": "it met", "attempts": [{**turn, **timed_latency("simulated", 0.6)}]}}
    values |= {"verdict": "met", "latency_target_ms": 0.7, "advice": ""}
    rows = result_rows(values)
    assert rows[0] == ("latency target", "700 µs: met, simulated (a model, no device)")
    assert ("simulated latency", "500 µs (sim_a76: a model, no device)") in rows
    assert ("simulated latency, whole net", "600 µs (a model, no device)") in rows
    assert not any("measured" in cell for row in rows for cell in row)
