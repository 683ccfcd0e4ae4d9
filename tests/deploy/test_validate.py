"""Whole nets are timed on a real device session, once each, and compared with the sums of their blocks."""

import json
import random

import pytest
from typer.testing import CliRunner

from tvmfbnet.cli import latency_model
from tvmfbnet.deploy.validate import measure_nets
from tvmfbnet.devices.target import load_target
from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import NET
from tvmfbnet.latency.store import correction_path, journal_path
from tvmfbnet.space.arch import Arch


def run(*arguments: object) -> str:
    result = CliRunner().invoke(latency_model.app, [str(item) for item in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.rpc
def test_nets_are_timed_once_and_compared_with_the_sum_of_their_blocks(tuned_mini, tmp_path):
    space, root = tuned_mini.space, tuned_mini.root
    rng = random.Random(7)
    archs = [Arch(tuple(rng.choice(layer.blocks) for layer in space.layers)) for _ in range(2)]
    target = load_target("host")
    first = measure_nets(space, target, archs, root)
    journal = Journal(journal_path("host", root))
    assert all(ms > 0 for ms in first.values()) and len(first) == 2
    nets = [item for item in journal.read() if item.part.part == NET]
    assert {item.arch: item.latency_ms for item in nets} == first
    assert measure_nets(space, target, archs, root) == first
    assert len([item for item in journal.read() if item.part.part == NET]) == 2, "a net that is there was timed again"
    figure = tmp_path / "additivity.png"
    options = ["validate", "--target", "host", "--space", space.name, "--tuning-logs", root, "-n", 5]
    found = json.loads(run(*options, "--figure", figure, "--json"))
    assert found["n"] >= 5 and len(found["records"]) == found["n"]
    assert set(found["agreement"]) == {"bias", "mean_error", "spearman", "kendall", "worst", "worst_error"}
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert correction_path("host", space.name, root).is_file()
    assert "sum of blocks" in run(*options, "--stored")
    correction_path("host", space.name, root).unlink()  # other tests share these logs


def test_nets_of_a_target_that_was_never_tuned_are_refused(tiny_space, tmp_path):
    arch = Arch(tuple(layer.blocks[0] for layer in tiny_space.layers))
    with pytest.raises(LatencyError, match="nothing was tuned"):
        measure_nets(tiny_space, load_target("host"), [arch], tmp_path)


def test_stored_and_run_exclude_each_other():
    with pytest.raises(UserError, match="one of the two"):
        run("validate", "--target", "host", "--space", "fbnet_mini", "--stored", "--run", "runs/x")
