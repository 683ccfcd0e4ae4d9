"""A tuned space's archs compile with every conv kernel found; the parity gate lets only equal nets pass."""

import json
import math
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
from brief_target import brief_target
from validate_cli import validate

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.cli.main import app
from tvmfbnet.deploy import whole_nets as whole_nets_module
from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.package import compile_net, load_package, untrained_net
from tvmfbnet.deploy.parity import check_parity
from tvmfbnet.deploy.whole_nets import measure_nets
from tvmfbnet.errors import DeviceError, ParityError, StorageError
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import NET
from tvmfbnet.latency.repository import correction_path, journal_path, load_table
from tvmfbnet.pipeline.tuning import TuneResult, tune_space
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import ResolvedTarget, load_target, resolve

pytestmark = [pytest.mark.rpc, pytest.mark.slow]

# Every kind of block and of place: expanded or not, in groups, skipped; with stride, with and without a residual.
SPACE = """
input: {channels: 1, height: 32, width: 32}
classes: 10
stem: {channels: 16, stride: 2}
stages:
  - {channels: 16, layers: 1, stride: 1}
  - {channels: 32, layers: 2, stride: 2}
blocks: [k3_e1, k5_e1_g2, k5_e3, skip]
last_channels: 64
"""
PASSES, CHAIN_RUNS = 3, 4


@dataclass(frozen=True)
class TunedSpace:
    """A space that was tuned on this host through a real tracker and server, with as few trials as will do."""

    space: Space
    space_file: Path
    target: ResolvedTarget
    target_file: Path
    root: Path
    outcome: TuneResult
    measured_share: float


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder, share = tmp_path_factory.mktemp("tuned"), 0.5
    (folder / "small.yaml").write_text(SPACE)
    (folder / "mine.yaml").write_text(brief_target(visits=PASSES, chain_runs=CHAIN_RUNS))
    space, target = load_space(str(folder / "small.yaml")), load_target(str(folder / "mine.yaml"))
    outcome = tune_space(space, target, TuneOptions(trials=1, measure_share=share, batch=2), folder / "logs")
    files = (folder / "small.yaml", resolve(target), folder / "mine.yaml", folder / "logs")
    return TunedSpace(space, *files, outcome, share)


@pytest.fixture
def database(tuned):
    return existing_database(tuned.target, tuned.root)


def random_net(space, seed):
    generator = random.Random(seed)
    return untrained_net(Arch(tuple(generator.choice(layer.blocks) for layer in space.layers)), space)


@pytest.mark.parametrize("seed", [0, 1])
def test_any_arch_of_a_tuned_space_finds_every_conv_kernel(tuned, database, tmp_path, seed):
    package = compile_net(random_net(tuned.space, seed), tuned.target, database, tmp_path)
    assert package.kernels.missing == ()
    assert package.kernels.tuned == package.kernels.needed >= 5


def test_compiling_a_net_of_another_resolution_warns_of_kernels_that_were_never_tuned(tuned, tmp_path, capsys):
    arch = format_arch(Arch(tuple(layer.blocks[0] for layer in tuned.space.layers)), tuned.space)
    options = ["--target", tuned.target_file, "--tuning-logs", tuned.root, "--build-only", "--out"]

    def told(space, out):
        words = ["compile", arch, "--space", space, *options, tmp_path / out]
        assert app(args=[str(word) for word in words], standalone_mode=False) in (0, None)
        return capsys.readouterr().err

    assert "never tuned" not in told(tuned.space_file, "as tuned")
    other = f"{tuned.space_file}@20"
    warning = told(other, "smaller")
    assert "conv kernels were never tuned" in warning
    tune = f"tvmfbnet tune --target {tuned.target_file} --space {other} --arch {arch}"
    assert tune in " ".join(warning.split())


def test_a_compiled_net_equals_torch_on_the_device_and_another_net_is_refused(tuned, database, tmp_path):
    net = random_net(tuned.space, 3)
    package = compile_net(net, tuned.target, database, tmp_path)
    assert package.kernels.missing == ()
    with connect_device(tuned.target) as endpoint:
        assert check_parity(package, net, tuned.target, endpoint).error < 1e-4
        with pytest.raises(ParityError, match="differs from PyTorch"):
            check_parity(package, random_net(tuned.space, 4), tuned.target, endpoint)
        result = bench_package(load_package(tmp_path), tuned.target, endpoint, sustained_seconds=1)
    assert 0 < result.latency_ms < 100
    assert result.onnxruntime_ms is not None and 0 < result.onnxruntime_ms < 100
    assert result.sustained_ms is not None and 0 < result.sustained_ms < 100
    facts = result.values["device"]
    assert facts["threads"] == str(tuned.target.threads) and facts["allowed_cores"]


def test_tuning_measured_the_share_that_was_asked_for_and_the_rest_is_told_apart(tuned):
    blocks = tuned.space.distinct_blocks()
    table = load_table("mine", tuned.root)
    measured = [part for part in blocks if part not in table.missing(blocks)]
    assert len(measured) == math.ceil(tuned.measured_share * len(blocks))
    journal = Journal(journal_path("mine", tuned.root)).read()
    assert all(
        m.latency_ms > 0 and m.n + m.outliers >= PASSES * CHAIN_RUNS and m.trials > 0 and m.overhead_ms > 0
        for m in journal
    )
    assert tuned.outcome.report.untuned == ()
    for measurement in journal:
        told = measurement.fingerprint
        assert {"machine", "model", "threads", "allowed_cores", "tvm_version", "address"} <= set(told), told


def test_what_kernels_take_is_known_of_all_parts_also_of_those_that_were_not_timed(tuned):
    table, parts = load_table("mine", tuned.root), tuned.space.distinct_parts()
    assert table.missing(parts), "the share leaves blocks out"
    assert set(parts) <= set(table.kernel_ms)
    # In a net a part takes about as long as its kernels do alone. This machine may be busy, but not for half of them.
    ratio = statistics.median(cell.latency_ms / table.kernel_ms[part] for part, cell in table.cells.items())
    assert 0.1 < ratio < 10


def test_a_package_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(StorageError):
        load_package(tmp_path)
    (tmp_path / "package.json").write_text(json.dumps({"arch": "skip"}))
    with pytest.raises(StorageError, match="damaged or of another version"):
        load_package(tmp_path)


def test_nets_are_timed_once_and_compared_with_the_sum_of_their_blocks(tuned, tmp_path):
    space, root, figure = tuned.space, tuned.root, tmp_path / "additivity.png"
    options = ["validate", "--target", tuned.target_file, "--space", tuned.space_file, "--tuning-logs", root, "-n", 5]
    study = json.loads(validate(*options, "--figure", figure, "--json"))
    assert study["n"] == len(study["records"]) == 5
    assert set(study["agreement"]) == {"bias", "mean_error", "spearman", "kendall", "worst", "worst_error"}
    assert figure.read_bytes().startswith(b"\x89PNG")

    journal = Journal(journal_path("mine", root))
    nets = {item.arch: item for item in journal.read() if item.part.part == NET}
    assert len(nets) == 5 and all(item.latency_ms > 0 for item in nets.values())
    # None where this machine is too busy for it to be known well.
    assert all(item.pace is None or 0.5 <= item.pace <= 2 for item in nets.values())
    archs = [parse_arch(arch, space) for arch in nets]
    assert measure_nets(space, load_target(str(tuned.target_file)), archs, root) == nets
    assert len([item for item in journal.read() if item.part.part == NET]) == 5, "a net that is there was timed again"

    correction = correction_path("mine", space, load_table("mine", root).context, root)
    assert correction.is_file()
    assert "sum of blocks" in validate(*options, "--stored")
    correction.unlink()  # other tests share these logs


def test_nets_that_were_compiled_before_the_device_went_away_are_not_compiled_again(tuned, monkeypatch):
    space, root, target = tuned.space, tuned.root, load_target(str(tuned.target_file))
    rng = random.Random(11)
    archs = [Arch(tuple(rng.choice(layer.blocks) for layer in space.layers))]
    compiled = []

    def counted(*arguments, **named):
        compiled.append(arguments)
        return compile_net(*arguments, **named)

    def gone(*_):
        raise DeviceError("the device went away")

    monkeypatch.setattr(whole_nets_module, "compile_net", counted)
    with monkeypatch.context() as without_device:
        without_device.setattr(whole_nets_module, "_in_turn", gone)
        with pytest.raises(DeviceError, match="went away"):
            measure_nets(space, target, archs, root)
    assert len(compiled) == 1
    assert all(item.latency_ms > 0 for item in measure_nets(space, target, archs, root).values())
    assert len(compiled) == 1, "a net was compiled again"
    (folder,) = root.glob("mine/nets-*")
    assert not list(folder.iterdir()), "libraries were left behind"
