"""A tuned space's archs compile with every conv kernel found; the parity gate lets only equal nets pass."""

import json
import random
import subprocess
import sys

import pytest
from validate_cli import validate

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.deploy import whole_nets as whole_nets_module
from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.package import compile_net, load_package, untrained_net
from tvmfbnet.deploy.parity import check_parity
from tvmfbnet.deploy.whole_nets import measure_nets
from tvmfbnet.errors import DeviceError, ParityError, StorageError
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import NET
from tvmfbnet.latency.repository import correction_path, journal_path, load_table
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.targets.definition import load_target

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture
def database(tuned_mini):
    return existing_database(tuned_mini.target, tuned_mini.root)


def random_net(space, seed):
    generator = random.Random(seed)
    return untrained_net(Arch(tuple(generator.choice(layer.blocks) for layer in space.layers)), space)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_arch_of_a_tuned_space_finds_every_conv_kernel(tuned_mini, database, tmp_path, seed):
    package = compile_net(random_net(tuned_mini.space, seed), tuned_mini.target, database, tmp_path)
    assert package.kernels.missing == ()
    assert package.kernels.tuned == package.kernels.needed >= 5


def test_compiling_a_net_of_another_resolution_warns_of_kernels_that_were_never_tuned(tuned_mini, tmp_path):
    arch = format_arch(Arch(tuple(layer.blocks[0] for layer in tuned_mini.space.layers)), tuned_mini.space)
    options = ["--target", "host", "--tuning-logs", str(tuned_mini.root), "--build-only", "--out"]

    def told(space):
        command = [
            sys.executable,
            "-m",
            "tvmfbnet.cli.main",
            "compile",
            arch,
            "--space",
            space,
            *options,
            tmp_path / space,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert "never tuned" not in told("fbnet_mini")
    warning = told("fbnet_mini@20")
    assert "conv kernels were never tuned" in warning
    assert f"tvmfbnet tune --target host --space fbnet_mini@20 --arch {arch}" in " ".join(warning.split())


def test_a_compiled_net_equals_torch_on_the_device_and_another_net_is_refused(tuned_mini, database, tmp_path):
    net = random_net(tuned_mini.space, 3)
    package = compile_net(net, tuned_mini.target, database, tmp_path)
    with connect_device(tuned_mini.target) as endpoint:
        assert check_parity(package, net, tuned_mini.target, endpoint) < 1e-4
        with pytest.raises(ParityError, match="differs from PyTorch"):
            check_parity(package, random_net(tuned_mini.space, 4), tuned_mini.target, endpoint)
        result = bench_package(load_package(tmp_path), tuned_mini.target, endpoint, sustained_seconds=2)
    assert 0 < result.latency_ms < 100
    assert result.onnxruntime_ms is not None and 0 < result.onnxruntime_ms < 100
    assert result.sustained_ms is not None and 0 < result.sustained_ms < 100
    facts = result.values["device"]
    assert facts["threads"] == str(tuned_mini.target.threads) and facts["allowed_cores"]


def test_tuning_measured_the_share_that_was_asked_for_and_the_rest_is_told_apart(tuned_mini):
    blocks = tuned_mini.space.distinct_blocks()
    table = load_table("host", tuned_mini.root)
    measured = [part for part in blocks if part not in table.missing(blocks)]
    assert len(measured) == -(-len(blocks) * 20 // 100)
    journal = Journal(journal_path("host", tuned_mini.root)).read()
    assert all(m.latency_ms > 0 and m.n + m.outliers >= 10 and m.trials > 0 and m.overhead_ms > 0 for m in journal)
    assert tuned_mini.outcome.report.untuned == ()
    for measurement in journal:
        told = measurement.fingerprint
        assert {"machine", "model", "threads", "allowed_cores", "tvm_version", "address"} <= set(told), told


def test_what_kernels_take_is_known_of_all_parts_also_of_those_that_were_not_timed(tuned_mini):
    table, parts = load_table("host", tuned_mini.root), tuned_mini.space.distinct_parts()
    assert table.missing(parts), "the share leaves blocks out"
    assert set(parts) <= set(table.kernel_ms)
    # In a net a part takes about as long as its kernels do alone; this machine may be busy.
    assert all(0.1 < cell.latency_ms / table.kernel_ms[part] < 10 for part, cell in table.cells.items())


def test_a_package_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(StorageError):
        load_package(tmp_path)
    (tmp_path / "package.json").write_text(json.dumps({"arch": "skip"}))
    with pytest.raises(StorageError, match="damaged or of another version"):
        load_package(tmp_path)


def test_nets_are_timed_once_and_compared_with_the_sum_of_their_blocks(tuned_mini, tmp_path):
    space, root = tuned_mini.space, tuned_mini.root
    rng = random.Random(7)
    archs = [Arch(tuple(rng.choice(layer.blocks) for layer in space.layers)) for _ in range(2)]
    target = load_target("host")
    first = measure_nets(space, target, archs, root)
    journal = Journal(journal_path("host", root))
    assert all(item.latency_ms > 0 for item in first.values()) and len(first) == 2
    # None where this machine is too busy for it to be known well.
    assert all(item.pace is None or 0.5 <= item.pace <= 2 for item in first.values())
    nets = [item for item in journal.read() if item.part.part == NET]
    assert {item.arch: item for item in nets} == first
    assert measure_nets(space, target, archs, root) == first
    assert len([item for item in journal.read() if item.part.part == NET]) == 2, "a net that is there was timed again"
    figure = tmp_path / "additivity.png"
    options = ["validate", "--target", "host", "--space", space.name, "--tuning-logs", root, "-n", 5]
    study = json.loads(validate(*options, "--figure", figure, "--json"))
    assert study["n"] >= 5 and len(study["records"]) == study["n"]
    assert set(study["agreement"]) == {"bias", "mean_error", "spearman", "kendall", "worst", "worst_error"}
    assert figure.read_bytes().startswith(b"\x89PNG")
    correction = correction_path("host", space, load_table("host", root).context, root)
    assert correction.is_file()
    assert "sum of blocks" in validate(*options, "--stored")
    correction.unlink()  # other tests share these logs


def test_nets_that_were_compiled_before_the_device_went_away_are_not_compiled_again(tuned_mini, monkeypatch):
    space, root = tuned_mini.space, tuned_mini.root
    rng = random.Random(11)
    archs = [Arch(tuple(rng.choice(layer.blocks) for layer in space.layers)) for _ in range(2)]
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
            measure_nets(space, load_target("host"), archs, root)
    assert len(compiled) == 2
    assert all(item.latency_ms > 0 for item in measure_nets(space, load_target("host"), archs, root).values())
    assert len(compiled) == 2, "a net was compiled again"
    (folder,) = root.glob("host/nets-*")
    assert not list(folder.iterdir()), "libraries were left behind"
