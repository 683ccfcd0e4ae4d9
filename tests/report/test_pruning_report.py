"""A run's report shows how its net was pruned: rounds and controls, drawn and in a table; a damaged file is named."""

import json
import re

import pytest

from tvmfbnet.errors import StorageError
from tvmfbnet.report.page import write_report

ARCH = "k3_e6/k3_e6,skip"


def prune_record(shares, controlled=True, latency_ms=None):
    rounds = []
    for number, share in enumerate(shares):
        accuracy = 0.9 - 0.02 * number
        about = {"round": number, "weights": int(40_000 * share), "remaining": share, "emptied_layers": 0}
        about |= {"arch": ARCH, "test_accuracy": accuracy, "checkpoint": f"round-{number:02d}/net.pt"}
        control = accuracy - (0.03 if number > 1 else -0.01) if controlled and number else None
        about |= {"control_accuracy": control, "control_checkpoint": None}
        rounds.append({**about, "latency_ms": None if latency_ms is None else latency_ms * share})
    return {"rewind_epochs": 0 if latency_ms is None else 2, "rounds": rounds}


def write_pruned_run(folder, **prunings):
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("space: fbnet_mini\n")
    for name, record in prunings.items():
        (folder / "pruning" / name).mkdir(parents=True)
        (folder / "pruning" / name / "prune.json").write_text(json.dumps(record))
    return folder


def section(page, heading):
    """What stands below a heading, without tags of terms."""
    return page[page.index(f"<h2>{heading}</h2>") :].split("<h2>")[1]


def rows(text):
    return [
        re.findall(r"<td>(.*?)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)
        if row.startswith("<td>")
    ]


def test_the_page_shows_tickets_beside_their_controls_and_channels_against_latency(tmp_path):
    shares = (1.0, 0.447, 0.2)
    weights, channels = prune_record(shares), prune_record(shares, controlled=False, latency_ms=0.5)
    run = write_pruned_run(tmp_path / "run", weights=weights, channels=channels, finer=prune_record((1.0, 0.9)))
    (run / "pruning" / "begun").mkdir()
    text = write_report(run).read_text()
    headings = [heading for heading in re.findall(r"<h2>(.*?)</h2>", text) if heading.startswith("Pruning")]
    assert headings == ["Pruning of channels", "Pruning of weights: finer", "Pruning of weights"]
    tickets, narrowed = (section(text, f"Pruning of {kind}") for kind in ("weights", "channels"))
    assert rows(tickets) == [
        ["0", "40,000", "100.0%", "90.00%", ""],
        ["1", "17,880", "44.7%", "88.00%", "89.00%"],
        ["2", "8,000", "20.0%", "86.00%", "83.00%"],
    ]
    assert "rewinds the others to the initial ones" in tickets and "1 of 2 beat the control" in tickets
    assert [cells[3] for cells in rows(narrowed)] == ["500", "223.5", "100"] and "latency, µs" in narrowed
    assert "those after epoch 2" in narrowed and "control" not in narrowed
    for drawn in (tickets, narrowed):
        assert re.findall(r'<figure class="(\w+)">', drawn) == ["wide", "narrow"]
    assert ">control<" in tickets and "weights that remain, %" in tickets and "latency by the table, µs" in narrowed
    assert sorted(path.name for path in (run / "report").glob("pruning*.png")) == [
        f"pruning_{number}.png" for number in (1, 2, 3)
    ]
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert "<dt>lottery ticket</dt>" in text


def test_a_run_that_was_not_pruned_says_nothing_of_it_and_a_damaged_pruning_is_named(tmp_path):
    run = write_pruned_run(tmp_path / "run")
    assert "Pruning" not in write_report(run).read_text()
    record = prune_record((1.0, 0.5))
    del record["rounds"][1]["test_accuracy"]
    write_pruned_run(run, weights=record)
    with pytest.raises(StorageError, match=r"weights/prune\.json is damaged .*test_accuracy.*prune again"):
        write_report(run)
