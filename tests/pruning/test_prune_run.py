"""A run's net is pruned with what the run says of it, into the run's folder, and its report shows the rounds."""

import json

import pytest
from finished_runs import write_finished_run

from tvmfbnet.api.prune import prune_run
from tvmfbnet.cli.main import main
from tvmfbnet.errors import ConstraintError, UserError
from tvmfbnet.training.checkpoint import load_checkpoint

ARCH = "k3_e1/k3_e3,skip"
QUICK = {"batch_size": 40, "threads": 1, "device": "cpu"}


@pytest.fixture
def run(tiny_space_file, tiny_data, tmp_path):
    """A finished run whose net was trained for two epochs."""
    recipe = {"target": "host", "space": str(tiny_space_file), "data": tiny_data, "search": {"epochs": 1}}
    return write_finished_run(tmp_path / "run", {**recipe, "train": {**QUICK, "epochs": 2, "lr": 0.05}}, ARCH)


def pruned(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["prune", *map(str, words)])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_a_runs_net_is_pruned_as_it_was_trained_and_the_report_shows_it(run, capsys):
    code, out, told = pruned(capsys, "--run", run, "--remaining", "50%", "--rounds", 1, "--epochs", 1, "--json")
    assert code == 0 and f"tvmfbnet report {run}" in told
    rounds = json.loads(out)["rounds"]
    assert [each["arch"] for each in rounds] == [ARCH, ARCH] and rounds[1]["remaining"] == pytest.approx(0.5, abs=0.01)
    settings = load_checkpoint(run / "pruning/weights/prune.ckpt", "pruning")["identity"]
    assert (settings["lr"], settings["epochs"], settings["batch_size"]) == (0.05, 1, 40)
    with pytest.raises(SystemExit) as end:
        main(["report", str(run)])
    assert end.value.code == 0
    assert "<h2>Pruning of weights</h2>" in (run / "report/index.html").read_text()


def test_channels_go_by_the_latencies_that_the_net_was_found_on(run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "tvmfbnet.pruning.prune.prune_channels",
        lambda arch, space, table, data, config, training, out: asked.append((table, training, out)),
    )
    prune_run(run, {"latency_target_share": 0.9, "multiple": 4})
    table, training, out = asked[0]
    assert table.is_simulated and out == run / "pruning/channels" and training.epochs == 2
    with pytest.raises(ConstraintError, match="no block can be narrowed to a multiple of 512"):
        prune_run(run, {"latency_target_share": 0.9, "multiple": 512})


def test_what_no_net_can_be_read_from_is_refused_in_one_line(run, capsys):
    for words, line in (
        (("--epochs", 1), "which net? Give ARCH, --space and --data, or --run with the folder of a run"),
        ((ARCH, "--run", run), "give --run, or ARCH, --space and --data, not both"),
        (("--run", run / "train"), "is not a run (no recipe.yaml)"),
    ):
        code, _, told = pruned(capsys, *words)
        assert code == 2 and line in told and told.rstrip().splitlines()[-1].startswith("error: "), told
    (run / "result.json").unlink()
    with pytest.raises(UserError, match=r"has found no net yet: finish it with `tvmfbnet run .*recipe\.yaml --out "):
        prune_run(run)
