"""A tuned space's archs compile with every conv kernel found; the parity gate lets only equal nets pass."""

import json
import random

import pytest

from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.package import check_parity, compile_net, load_package, untrained_net
from tvmfbnet.devices.local import reach
from tvmfbnet.errors import ParityError, StorageError
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.store import journal_path, load_table, target_folder
from tvmfbnet.space.arch import Arch
from tvmfbnet.tuning.database import TuningDatabase, database_folder

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture
def database(tuned_mini):
    return TuningDatabase(database_folder(target_folder("host", tuned_mini.root)), repair=True)


def random_net(space, seed):
    generator = random.Random(seed)
    return untrained_net(Arch(tuple(generator.choice(layer.blocks) for layer in space.layers)), space)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_arch_of_a_tuned_space_finds_every_conv_kernel(tuned_mini, database, tmp_path, seed):
    package = compile_net(random_net(tuned_mini.space, seed), tuned_mini.target, database, tmp_path)
    assert package.kernels.missing == ()
    assert package.kernels.found == package.kernels.needed >= 5


def test_a_compiled_net_equals_torch_on_the_device_and_another_net_is_refused(tuned_mini, database, tmp_path):
    net = random_net(tuned_mini.space, 3)
    package = compile_net(net, tuned_mini.target, database, tmp_path)
    with reach(tuned_mini.target) as endpoint:
        assert check_parity(package, net, tuned_mini.target, endpoint) < 1e-4
        with pytest.raises(ParityError, match="differs from PyTorch"):
            check_parity(package, random_net(tuned_mini.space, 4), tuned_mini.target, endpoint)
        result = bench_package(load_package(tmp_path), tuned_mini.target, endpoint)
    assert 0 < result.latency_ms < 100
    assert result.onnxruntime_ms is not None and 0 < result.onnxruntime_ms < 100


def test_tuning_measured_the_share_that_was_asked_for_and_the_rest_is_told_apart(tuned_mini):
    blocks = tuned_mini.space.distinct_blocks()
    table = load_table("host", tuned_mini.root)
    measured = [part for part in blocks if part not in table.missing(blocks)]
    assert len(measured) == -(-len(blocks) * 20 // 100)
    journal = Journal(journal_path("host", tuned_mini.root)).read()
    assert all(m.latency_ms > 0 and m.n + m.outliers >= 10 and m.trials > 0 and m.overhead_ms > 0 for m in journal)
    assert tuned_mini.outcome.report.untuned == ()


def test_a_package_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(StorageError):
        load_package(tmp_path)
    (tmp_path / "package.json").write_text(json.dumps({"arch": "skip"}))
    with pytest.raises(StorageError, match="not a package description"):
        load_package(tmp_path)
