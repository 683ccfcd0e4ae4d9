"""The study of lottery tickets runs all its parts, resumes, and tells means, intervals and gains as it should."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

SMALL = "--seeds 1 --images 120 --test-images 40 --epochs 1 --rounds 1 --search-epochs 2 --channel-rounds 1"


@pytest.fixture
def study(benchmark_script):
    return benchmark_script("ticket_study")


@pytest.mark.slow
def test_every_part_is_trained_once_and_compiled_nets_are_timed(study, tiny_data, tmp_path, monkeypatch, capsys):
    shutil.copytree(tiny_data.partition(":")[2], tmp_path / "datasets/fashion-mnist")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TVMFBNET_DATA", raising=False)
    words = ["study", "--out", "study", *SMALL.split(), "--latency-shares", "0.5", "--figure", "tickets.png"]
    monkeypatch.setattr(sys, "argv", [*words, "--timing-rounds", "0"])
    study.main()
    nets = json.loads((tmp_path / "study/study.json").read_text())["nets"]
    kinds = [row["kind"] for row in nets]
    assert sorted(kinds) == sorted(
        ["dense", *["ticket", "control", "searched by size"] * 2, "channels", "searched by latency"]
    )
    sizes = {(row["kind"], row["place"]): row for row in nets}
    for share, place in ((0.2, "round 1"), (0.05, "round 2")):
        ticket, control = (sizes[kind, place] for kind in ("ticket", "control"))
        assert ticket["weight_share"] == pytest.approx(share, rel=0.02) and control["weights"] == ticket["weights"]
        assert 0 < sizes["searched by size", f"params-{share:g}"]["param_share"] <= share
    dense, narrow = sizes["dense", "round 0"], sizes["channels", "round 1"]
    assert "_w" in narrow["arch"] and narrow["weights"] < dense["weights"]
    rounds = json.loads((tmp_path / "study/seed-0/channels/prune.json").read_text())["rounds"]
    for row in (narrow, sizes["searched by latency", "latency-0.5"]):
        assert 0 < row["predicted_ms"] <= 0.5 * rounds[0]["latency_ms"]
    # Again, of one kind, and now timed: nothing is trained twice.
    monkeypatch.setattr(sys, "argv", [*words, "--timing-rounds", "2", "--parts", "channels"])
    written = Path(narrow["checkpoint"]).stat().st_mtime_ns
    study.main()
    timed = json.loads((tmp_path / "study/study.json").read_text())["nets"]
    assert [row["kind"] for row in timed] == ["channels"] and timed[0]["latency_ms"] > 0
    assert timed[0]["accuracy"] == narrow["accuracy"] and Path(narrow["checkpoint"]).stat().st_mtime_ns == written
    assert f"{timed[0]['latency_ms']:.4f} ms" in capsys.readouterr().out
    assert (tmp_path / "tickets.png").stat().st_size > 10_000


def test_means_have_intervals_and_gains_are_of_pairs_with_one_seed(study):
    def row(kind, place, seed, accuracy):
        return {"kind": kind, "place": place, "seed": seed, "accuracy": accuracy, "weight_share": 0.2}

    rows = [row("dense", "round 0", seed, value) for seed, value in enumerate((0.8, 0.9, 0.85))]
    rows += [row("ticket", "round 1", seed, value) for seed, value in enumerate((0.81, 0.91, 0.86))]
    rows += [row("control", "round 1", seed, value) for seed, value in enumerate((0.7, 0.8, 0.6))]
    dense, ticket, control = study.summary(rows)
    assert dense["accuracy"] == pytest.approx(85) and "over_dense" not in dense and "over_control" not in dense
    # Student's t of two degrees of freedom, 4.3027, times 5 / sqrt(3).
    assert dense["interval"] == pytest.approx(4.3027 * 5 / 3**0.5, rel=1e-4)
    assert (ticket["over_dense"], ticket["over_dense_interval"]) == pytest.approx((1, 0))
    assert ticket["over_control"] == pytest.approx(np.mean([11, 11, 26])) and control["over_dense"] == pytest.approx(
        -15
    )
