"""Transfer uses only the named targets' trials, fades as own trials come in, and stops where they mislead."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.registers import Registers, accumulators
from tvmfbnet.autotune.transfer import TransferSource, read_sources
from tvmfbnet.autotune.trial_log import Templated, TrialLog
from tvmfbnet.cli.main import main
from tvmfbnet.errors import UserError
from tvmfbnet.rpc.session import KernelTiming
from tvmfbnet.targets.definition import load_target

AVX512, AVX2 = Registers(32, 64), Registers(16, 32)
NEW = KernelShape("conv", 14, 14, 128, reduction=64, group=128)
KNOWN = [replace(NEW, channels=width, group=width) for width in (32, 64, 96)]

SIMILAR = """
name: similar
description: this machine under another name
exercised: false
tvm: {kind: llvm, mcpu: native, num-cores: 1}
transport: {kind: local, key: similar}
"""


def slowness(shape, knobs, registers):
    """Synthetic latency: large tiles and one loop order are fast, on all targets alike up to a factor."""
    return 1.0 + 3.0 * registers.count / (32 * accumulators(shape, knobs, registers)) + (knobs.order == "yxc")


def source(registers, sign=1.0, milliseconds=50.0):
    trials = [
        Templated(shape, knobs, milliseconds * shape.products * slowness(shape, knobs, registers) ** sign)
        for shape in KNOWN
        for knobs in all_knobs(shape, registers)[::5]
    ]
    return TransferSource("other", registers, tuple(trials))


def own_trials(cost_model, count):
    """``count`` trials of a target on which unrolling also costs."""
    tried = [(shape, knobs) for shape in KNOWN for knobs in all_knobs(shape, AVX512)]
    for index in np.random.default_rng(0).choice(len(tried), count, replace=False):
        shape, knobs = tried[index]
        cost_model.add(shape, knobs, shape.products * slowness(shape, knobs, AVX512) * (1.0 + 0.05 * knobs.unroll))


def test_before_any_own_trial_a_source_ranks_but_predicts_no_latency():
    cost_model = TrialCostModel(AVX512, sources=[source(AVX2)])
    ways = all_knobs(NEW, AVX512)
    rows = cost_model.rows(NEW, ways)
    assert TrialCostModel(AVX512).slowness(rows) is None
    assert cost_model.predict_ms(NEW, rows) is None
    actual = np.array([slowness(NEW, knobs, AVX512) for knobs in ways])
    first = np.argsort(cost_model.slowness(rows), kind="stable")[:8]
    assert actual[first].max() <= 1.1 * actual.min()


def test_predictions_are_on_the_own_targets_scale_and_the_sources_weight_fades():
    gaps = []
    for count in (60, 600):
        alone, transferred = TrialCostModel(AVX512), TrialCostModel(AVX512, sources=[source(AVX2)])
        for cost_model in (alone, transferred):
            own_trials(cost_model, count)
        ways = all_knobs(NEW, AVX512)
        expected = alone.predict_ms(NEW, alone.rows(NEW, ways))
        predicted = transferred.predict_ms(NEW, transferred.rows(NEW, ways))
        assert np.median(predicted) == pytest.approx(np.median(expected), rel=0.3)  # the other is 50 times as slow
        gaps.append(np.abs(np.log(predicted / expected)).mean())
    assert 0 < gaps[1] < gaps[0] / 2


def test_a_source_that_ranks_wrongly_here_is_ignored():
    alone, transferred = TrialCostModel(AVX512), TrialCostModel(AVX512, sources=[source(AVX2, sign=-1.0)])
    for cost_model in (alone, transferred):
        own_trials(cost_model, 60)
    ways = all_knobs(NEW, AVX512)
    expected = alone.predict_ms(NEW, alone.rows(NEW, ways))
    np.testing.assert_array_equal(transferred.predict_ms(NEW, transferred.rows(NEW, ways)), expected)
    np.testing.assert_array_equal(np.argsort(transferred.slowness(transferred.rows(NEW, ways))), np.argsort(expected))


def test_failed_trials_of_another_target_come_last():
    good = source(AVX2)
    failed = [replace(trial, best_ms=None) if trial.knobs.order == "cyx" else trial for trial in good.trials]
    cost_model = TrialCostModel(AVX512, sources=[replace(good, trials=tuple(failed))])
    ways = all_knobs(NEW, AVX512)
    last = np.argsort(cost_model.slowness(cost_model.rows(NEW, ways)))[-8:]
    assert {ways[index].order for index in last} == {"cyx"}


class Kernel:
    """The attributes of a kernel that the log reads."""

    key, name = "b", "conv"


@pytest.fixture
def similar(tmp_path):
    """A target file and a log with this many valid trials."""

    def write(trials):
        (tmp_path / "similar.yaml").write_text(SIMILAR)
        folder = tmp_path / "logs" / "similar" / "database"
        folder.mkdir(parents=True)
        ways = all_knobs(NEW, AVX512)[:trials]
        TrialLog(folder / "trials.jsonl").append(Kernel, NEW, ways, [KernelTiming((1.0,))] * trials)
        return str(tmp_path / "similar.yaml")

    return write


def test_a_log_is_read_once_however_often_its_target_is_named(similar, tmp_path):
    file = similar(60)
    (read,) = read_sources([file, file], load_target("host"), tmp_path / "logs")
    assert (read.target, len(read.trials), read.trials[0].shape) == ("similar", 60, NEW)
    assert read_sources([], load_target("host"), tmp_path / "logs") == ()


@pytest.mark.parametrize(
    ("target", "name", "said"),
    [
        ("host", "nowhere", "unknown target 'nowhere'"),
        ("host", "pixel", "tune that target first"),
        ("host", "host", "learns from its own trials anyway"),
        ("host", "mali", "CPUs and GPUs have other templates"),
        ("mali", "host", "CPUs and GPUs have other templates"),
    ],
)
def test_an_unusable_transfer_source_is_one_clear_line(target, name, said, tmp_path, capsys):
    arguments = ["tune", "--target", target, "--space", "fbnet_mini", "--learn-from", name, "--dry-run"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--tuning-logs", str(tmp_path)])
    written = capsys.readouterr()
    assert end.value.code == 2 and written.out == ""
    (line,) = written.err.splitlines()
    assert line.startswith("error: ") and said in line
    assert list(tmp_path.iterdir()) == []


def test_a_log_with_too_few_trials_is_refused(similar, tmp_path):
    file = similar(20)
    with pytest.raises(UserError, match=r"holds 20 valid trials of templates, needed: 48"):
        read_sources([file], load_target("host"), tmp_path / "logs")


def test_a_damaged_log_transfers_its_undamaged_trials(similar, tmp_path):
    file = similar(60)
    path = tmp_path / "logs" / "similar" / "database" / "trials.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0][:40], json.dumps({"task": 1}), *lines[1:]]) + "\n")
    (read,) = read_sources([file], load_target("host"), tmp_path / "logs")
    assert len(read.trials) == 59
