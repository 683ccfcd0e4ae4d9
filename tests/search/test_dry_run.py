"""A dry run takes whole steps, tells what they take, and forecasts from them; an estimate for a GPU says it is one."""

import json
import re

import pytest
from test_search_cli import run, searching  # noqa: F401
from test_search_run import TINY, table_of

from tvmfbnet.cli.main import main
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.dry_run import dry_run_search
from tvmfbnet.search.gpu_estimate import estimate_gpu
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space


def test_the_kinds_of_steps_take_turns_and_a_forecast_is_made_of_them(tiny_space, tiny_data):
    config = SearchConfig(**TINY)
    tried = dry_run_search(tiny_space, tiny_data, table_of(tiny_space), config, 12)
    assert tried.steps == {"single": 4, "weight": 4, "theta": 4}
    step = tried.forecast.step
    assert min(step.single, step.weight, step.theta) > 0 and 0 <= tried.waited_share < 1
    assert tried.forecast.plan == SearchPlan.of(config, 120)
    assert "12 steps (4 of warm-up, 4 of weights, 4 of theta)" in tried.describe()[0]
    assert re.fullmatch(r"memory: \d+\.\d\d GB at most", tried.describe()[1])


def test_where_steps_take_long_it_ends_early_and_says_so(tiny_space, tiny_data):
    tried = dry_run_search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY), 300, patience_seconds=0.0)
    assert tried.steps == {"single": 2, "weight": 2, "theta": 2}
    assert "6 steps of 300, ended early as steps take long" in tried.describe()[0]


def test_a_strategy_that_trains_archs_takes_only_such_steps(tiny_space, tiny_data):
    config = SearchConfig(**TINY, strategy="random")
    assert dry_run_search(tiny_space, tiny_data, table_of(tiny_space), config, 4).steps == {"single": 4}


def test_a_gpus_estimate_counts_the_multiply_accumulates_of_every_kind_of_step():
    space, config = load_space("fbnet_mini"), SearchConfig(epochs=30)
    plan = SearchPlan(2, 3, 4, 5, 600, 10, 20)
    fixed = sum(count_part(part).macs for part in space.fixed_parts())
    rows = [[count_part(layer.cell(block)).macs for block in layer.blocks] for layer in space.layers]
    one, whole = fixed + sum(sum(row) / len(row) for row in rows), fixed + sum(map(sum, rows))
    expected = 3 * (7 * 10 * one + 3 * 10 * whole + 4 * 20 * whole) + 600 * one
    estimate = estimate_gpu(space, config, plan, 2.0)
    assert estimate.macs == pytest.approx(expected) and estimate.seconds == pytest.approx(expected / 2e12)
    sampled = config.model_copy(update={"weight_steps": "sampled", "theta_steps": "two_path"})
    two = 2 * one - fixed
    assert estimate_gpu(space, sampled, plan).macs == pytest.approx(
        3 * (7 * 10 * one + 3 * 10 * one + 4 * 20 * two) + 600 * one
    )


def test_the_rate_that_is_assumed_is_that_of_the_papers_own_search():
    """216 GPU-hours, for 90 epochs on a tenth of ImageNet's 1,281,167 images."""
    estimate = estimate_gpu(load_space("fbnet"), SearchConfig(), SearchPlan.of(SearchConfig(), 128_117))
    assert estimate.seconds / 3600 == pytest.approx(216, rel=0.05)
    assert "estimated, not measured" in estimate.describe() and "FBNet paper's 216 GPU-hours" in estimate.describe()


def test_on_the_command_line(searching, tmp_path):  # noqa: F811
    words = ["search", *searching, "--out", tmp_path / "s", "--dry-run", "--dry-run-steps", 6]
    shown = run(*words).stdout
    assert "dry run on cpu: 6 steps (2 of warm-up" in shown and "memory: " in shown
    assert re.search(r"one GPU: about .*, estimated, not measured", shown)
    plan = json.loads(run(*words, "--gpu-tmacs", 3, "--json").stdout)
    assert plan["dry_run"]["steps"] == {"single": 2, "weight": 2, "theta": 2} and plan["dry_run"]["peak_bytes"] > 0
    assert plan["gpu"]["tmacs_per_second"] == 3 and plan["gpu"]["macs"] > 0
    assert "the rate given" in run(*words, "--gpu-tmacs", 3).stdout
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run-steps", "5"], "--dry-run-steps and --gpu-tmacs are options of --dry-run"),
        (["--gpu-tmacs", "5"], "--dry-run-steps and --gpu-tmacs are options of --dry-run"),
        (["--dry-run", "--gpu-tmacs", "-1"], "Invalid value for '--gpu-tmacs'"),
    ],
)
def test_its_options_alone_or_wrong_are_one_line(searching, capsys, words, said):  # noqa: F811
    with pytest.raises(SystemExit) as ended:
        main(["search", *map(str, searching), *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]
