"""What a package says about itself is held against what it is wanted for; nothing that failed parity looks good."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from brief_target import host_values

from tvmfbnet.cli.main import app
from tvmfbnet.deploy.package import compile_net, load_package, untrained_net
from tvmfbnet.deploy.parity import certify, check_outputs, expected_outputs, parity_inputs
from tvmfbnet.deploy.runtimes.onnx_runtime import OnnxSession
from tvmfbnet.deploy.trial import certify_and_time
from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.errors import ArchError, PackageError, ParityError, StorageError, UserError
from tvmfbnet.profiling.device_timer import SESSION_CAP_SECONDS, device_timer, sustained_sessions
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.run_files import LatencyOriginRecord
from tvmfbnet.search.derive import choice_of
from tvmfbnet.search.quantities.peak_memory import PeakMemory
from tvmfbnet.search.quantities.size import size_costs
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve
from tvmfbnet.training.checkpoint import save_checkpoint

ARCH, OTHER = "k3_e1/k3_e3,k3_e1", "k3_e3/k3_e1,k3_e1"


@pytest.fixture(scope="module")
def host_file(tmp_path_factory):
    """This machine, timed quickly, whatever else goes on here."""
    timing = {"drift_limit": 5.0, "rest_seconds": 0, "repeats": 3, "min_repeat_ms": 1}
    path = tmp_path_factory.mktemp("targets") / "host.yaml"
    path.write_text(yaml.safe_dump(host_values(timing=timing)))
    return path


@pytest.fixture(scope="module")
def host(host_file):
    return resolve(load_target(str(host_file)))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, host):
    """A small net and its package, which no device has seen."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "tiny.yaml").write_text(
        "input: {channels: 1, height: 16, width: 16}\nclasses: 10\nstem: {channels: 4, stride: 2}\n"
        "stages:\n  - {channels: 4, layers: 1, stride: 2}\n  - {channels: 8, layers: 2, stride: 1}\n"
        "blocks: [k3_e1, k3_e3]\nlast_channels: 8\n"
    )
    space = load_space(str(folder / "tiny.yaml"))
    net = untrained_net(parse_arch(ARCH, space), space)
    return net, compile_net(net, host, None, folder / "package")


@pytest.fixture
def package(compiled, tmp_path):
    """A copy of that package, to spoil."""
    return Path(shutil.copytree(compiled[1].folder, tmp_path / "package"))


def change(folder, **values):
    path = folder / "package.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_package_opens_for_what_it_was_compiled_for_and_says_that_nobody_checked_it(package, host, capsys):
    opened = load_package(package, host)
    assert opened.arch == ARCH and opened.input_shape == (1, 1, 16, 16)
    assert opened.description.parity.verdict == "unchecked" and opened.description.latency is None
    assert "never compared with PyTorch" in " ".join(capsys.readouterr().err.split())


def test_a_package_tells_the_memory_that_the_search_works_out(compiled):
    net, package = compiled
    described, choice = package.description, choice_of(package.arch, net.space)
    assert described.peak_memory_bytes == PeakMemory.of(net.space, FLOAT32).value(choice)
    assert described.weight_bytes == size_costs(net.space, FLOAT32).value(choice)
    assert described.library_bytes == package.library.stat().st_size > described.weight_bytes
    assert described.model_bytes == package.model.stat().st_size


def test_a_package_that_takes_more_on_a_device_than_allowed_is_refused_to_the_byte(compiled):
    package = compiled[1]
    files = {path.name: path.stat().st_size for path in package.folder.iterdir()}
    assert package.package_bytes == sum(files.values())
    assert package.shipped_bytes == files["net.so"] + files["package.json"]
    package.require_size(None)
    package.require_size(package.shipped_bytes)
    with pytest.raises(PackageError, match=r"1 more than the .* allowed: compile a smaller net"):
        package.require_size(package.shipped_bytes - 1)


def test_a_package_for_another_machine_is_refused_with_both_named(package, host):
    rpi = load_target("rpi4")
    change(package, target=rpi.name, tvm_target=rpi.tvm)
    mcpu = re.escape(host.tvm["mcpu"])
    expected = rf"was compiled for rpi4 \(aarch64-linux-gnu, cortex-a72\), not for host \({mcpu}"
    with pytest.raises(PackageError, match=expected):
        load_package(package, host)


def test_a_package_for_the_same_cpu_with_other_features_is_refused_with_both_named(package, host):
    change(package, tvm_target={**host.tvm, "mattr": ["+avx512f"]})
    with pytest.raises(PackageError, match=r"compiled for host \(mattr \['\+avx512f'\].*not for host \(mattr "):
        load_package(package, host)


def test_a_package_of_another_tvm_or_number_of_threads_is_refused_with_both_named(package, host):
    change(package, tvm_version="0.24.0")
    with pytest.raises(PackageError, match=r"compiled with TVM 0\.24\.0, and this is TVM"):
        load_package(package, host)
    change(package, threads=4)
    with pytest.raises(PackageError, match=r"4 thread\(s\), and target host uses 1; it was compiled with TVM"):
        load_package(package, host)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "damaged or of another version"),
        ('{"arch": "k3_e1"}', "damaged or of another version"),
        (None, "holds no package"),
    ],
)
def test_a_damaged_description_is_one_clear_line(package, host, content, told):
    path = package / "package.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(StorageError, match=told) as caught:
        load_package(package, host)
    assert "\n" not in str(caught.value) and "package" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"threads": "many"},
        {"input_shape": []},
        {"parity": {"verdict": "fine"}},
        {"tvm_target": "llvm"},
        {"input_dtype": "words"},
    ],
)
def test_a_field_of_the_wrong_kind_is_named(package, host, values):
    change(package, **values)
    with pytest.raises(StorageError, match=next(iter(values))):
        load_package(package, host)


def test_a_package_of_before_there_were_dtypes_is_float32(package, host):
    path = package / "package.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in ("dtype", "input_dtype")}))
    described = load_package(package, host).description
    assert (described.dtype, described.input_dtype) == ("float32", "float32")


def test_another_library_under_a_package_is_noticed(package, host):
    (package / "net.so").write_bytes((package / "net.so").read_bytes() + b"\0")
    with pytest.raises(StorageError, match=r"net\.so is not the file that package\.json describes"):
        load_package(package, host)


def test_a_damaged_onnx_model_is_noticed_and_one_line_where_there_is_no_checksum(package, host):
    (package / "net.onnx").write_bytes((package / "net.onnx").read_bytes()[:-100] + b"?")
    with pytest.raises(StorageError, match=r"net\.onnx is not the file that package\.json describes"):
        load_package(package, host)
    change(package, model_sha256="")
    with pytest.raises(StorageError, match=r"ONNX Runtime cannot load .*net\.onnx"):
        OnnxSession(load_package(package, host).model, InputSpec((1, 1, 16, 16), "float32"), 1, host.timing)


def test_values_that_are_not_finite_on_either_side_are_no_parity():
    good = np.array([1.0, 2.0], np.float32)
    assert relative_error(good, good) == 0
    for value in (np.nan, np.inf, -np.inf):
        bad = np.array([value, 2.0], np.float32)
        assert relative_error(bad, good) == relative_error(good, bad) == relative_error(bad, bad) == np.inf
    large = np.array([3e38, -3e38], np.float32)
    assert relative_error(large, -large) == pytest.approx(2.0), "differences beyond float32"


def test_the_error_of_parity_is_of_all_its_images_together(compiled, host):
    net, package = compiled
    dtype = host.data_type
    net = copy.deepcopy(net)
    expected = np.stack([output for (output,) in expected_outputs(net, package.input_shape, dtype)])
    largest = np.abs(expected).max(axis=(1, 2))
    with torch.no_grad():
        # The bias that makes one image's outputs cancel to almost nothing.
        net.head_linear.bias -= torch.from_numpy(expected[largest.argmin()][0])
    expected = np.stack([output for (output,) in expected_outputs(net, package.input_shape, dtype)])
    quiet, most = np.abs(expected).max(axis=(1, 2)).argmin(), np.abs(expected).max()
    images = parity_inputs(package.input_shape, dtype)

    def run(error):
        """The expected outputs, of the quiet image with an error relative to the largest output of all."""
        outputs = {image.tobytes(): output.copy() for image, output in zip(images, expected, strict=True)}
        outputs[images[quiet].tobytes()][0, 0] += error * most
        return lambda image: (outputs[image.tobytes()],)

    parity = check_outputs(package, net, dtype, run(0.5 * dtype.parity_limit))
    assert parity.error == pytest.approx(0.5 * dtype.parity_limit, rel=0.01) and not parity.output_errors
    with pytest.raises(ParityError, match="differs from PyTorch by"):
        check_outputs(package, net, dtype, run(2 * dtype.parity_limit))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_net_whose_own_output_is_not_finite_is_refused_and_leaves_no_package(compiled, host, tmp_path, value):
    net = untrained_net(compiled[0].arch, compiled[0].space)
    with torch.no_grad():
        net.stem.bn.running_mean[0] = value
    with pytest.raises(ParityError, match="PyTorch's own output is not finite"):
        compile_net(net, host, None, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_compile_that_fails_half_way_leaves_no_older_description(compiled, package, host, monkeypatch):
    from tvmfbnet.deploy import package as module

    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(module, "save_library", full)
    with pytest.raises(StorageError, match="full"):
        compile_net(compiled[0], host, None, package)
    with pytest.raises(StorageError, match="holds no package"):
        load_package(package, host)


def save_net(net, path):
    record = {"arch": format_arch(net.arch, net.space), "space": net.space.to_dict(), "data": "invented"}
    save_checkpoint(path, "net", {**record, "test_accuracy": 0.5, "state_dict": net.state_dict()})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": {"channels": 1, "height": 20, "width": 20}}, "input 1x16x16 in the checkpoint, 1x20x20 asked for"),
        ({"input": {"channels": 3, "height": 16, "width": 16}}, "input 1x16x16 in the checkpoint, 3x16x16 asked for"),
        ({"last_channels": 16}, "head channels 8 in the checkpoint, 16 asked for"),
        ({"stem": {"channels": 4, "stride": 1}}, "stem"),
        ({"blocks": ["k3_e1", "k3_e3", "k5_e1"]}, ""),
    ],
)
def test_a_checkpoint_of_another_space_is_refused_with_both_named(compiled, tmp_path, changes, told):
    file = tmp_path / "other.yaml"
    values = yaml.safe_load((compiled[1].folder.parent / "tiny.yaml").read_text())
    file.write_text(yaml.safe_dump({**values, **changes}))
    save_net(compiled[0], tmp_path / "net.pt")
    command = [
        "compile",
        ARCH,
        "--space",
        str(file),
        "--target",
        "host",
        "--build-only",
        "--tuning-logs",
        str(tmp_path),
    ]
    command += ["--checkpoint", str(tmp_path / "net.pt"), "--out", str(tmp_path / "package")]
    if told:
        with pytest.raises(ArchError, match=re.escape(told)):
            app(args=command, standalone_mode=False)
        assert not (tmp_path / "package").exists()
    else:  # candidate blocks that the net does not use make no other net
        assert app(args=command, standalone_mode=False) in (0, None)


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_carries_its_parity_verdict_and_its_latency_with_conditions(compiled, package, host):
    fresh, _ = certify_and_time(load_package(package, host), compiled[0], host)
    assert load_package(package, host) == fresh, "what was learnt is on disk"
    parity, latency = fresh.description.parity, fresh.description.latency
    assert parity.verdict == "passed" and parity.error < 1e-4 < parity.limit
    assert 0 < latency["interval"]["low_ms"] < latency["latency_ms"] < latency["interval"]["high_ms"]
    assert latency["threads"] == host.threads == int(latency["device"]["threads"])
    assert latency["repeats"] + latency["outliers"] == 9 * host.timing.repeats and len(latency["visits_ms"]) == 9
    assert latency["spread_ms"] > 0 and latency["time"] and latency["device"]["allowed_cores"]
    assert fresh.description.context["tvm_version"] == fresh.description.tvm_version


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_that_failed_parity_is_not_benched_without_force(compiled, package, host, host_file):
    other = untrained_net(parse_arch(OTHER, compiled[0].space), compiled[0].space)
    with connect_device(host) as endpoint, pytest.raises(ParityError, match="differs from PyTorch"):
        certify(load_package(package, host), other, host, endpoint)
    assert json.loads((package / "package.json").read_text())["parity"]["verdict"] == "failed"
    command = ["bench", str(package), "--target", str(host_file), "--json"]
    with pytest.raises(ParityError, match=r"failed the parity check: .*--force"):
        app(args=command, standalone_mode=False)
    assert app(args=[*command, "--force"], standalone_mode=False) in (0, None)


@pytest.mark.rpc
@pytest.mark.slow
def test_bench_ends_with_the_verdict_on_a_latency_target(package, host_file, capsys):
    command = ["bench", str(package), "--target", str(host_file), "--latency-target"]
    source = LatencyOriginRecord(kind="simulated", name="simulated:a_core", simulated=True)
    load_package(package).with_description(predicted_ms=0.5, latency_source=source)
    assert app(args=[*command, "10s"], standalone_mode=False) in (0, None)
    told = " ".join(capsys.readouterr().out.split())
    assert "latency target 10000 ms: met; measured" in told and "simulated when it was compiled" in told
    assert "; the net was chosen on simulated latencies, which no device took" in told
    load_package(package).with_description(latency_source=None)
    assert app(args=[*command, "0.001us", "--json"], standalone_mode=False) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"].startswith("missed by ") and told["verdict_kind"] == "missed" and told["advice"]
    assert told["interval"]["low_ms"] <= told["measured_ms"] <= told["interval"]["high_ms"]
    assert told["measured_ms"] == told["latency_ms"] and told["latency_target_ms"] == 1e-6


@pytest.mark.rpc
@pytest.mark.slow
def test_bench_tells_the_target_and_the_prediction_that_a_package_was_made_with(package, host_file, capsys):
    command = ["bench", str(package), "--target", str(host_file), "--sustained", "1s"]
    load_package(package).with_description(latency_target_ms=1e-6, predicted_ms=0.5)
    assert app(args=command, standalone_mode=False) == 3
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: row[1:] for row in rows if len(row) == 3}
    assert {"latency target", "predicted when it was compiled", "measured", "ONNX Runtime, as many threads"} <= set(
        table
    )
    measured, predicted = (float(table[name][0]) for name in ("measured", "predicted when it was compiled"))
    off = re.fullmatch(r"(.*)% against the measured latency", table["predicted when it was compiled"][1])
    assert float(off[1]) / 100 == pytest.approx(predicted / measured - 1, rel=1e-2, abs=2e-3)
    assert table["measured after 1 s without a pause"][1].endswith(" of the measured latency")
    ratio = re.fullmatch(r"the package takes (.*) of its time", table["ONNX Runtime, as many threads"][1])
    assert float(ratio[1]) == pytest.approx(measured / float(table["ONNX Runtime, as many threads"][0]), abs=0.02)
    assert any("missed by" in row[0] for row in rows)
    load_package(package).with_description(latency_target_ms=None, predicted_ms=None)
    assert app(args=[*command[:4], "--json"], standalone_mode=False) in (0, None)
    told = json.loads(capsys.readouterr().out)
    assert told["latency_target_ms"] is None and "verdict" not in told


@pytest.mark.rpc
@pytest.mark.slow
def test_compile_ends_with_the_verdict_on_a_latency_target(compiled, tmp_path, host_file, capsys):
    space = str(compiled[1].folder.parent / "tiny.yaml")
    command = ["compile", ARCH, "--space", space, "--target", str(host_file), "--json"]
    command += ["--tuning-logs", str(tmp_path), "--out", str(tmp_path / "package"), "--latency-target"]
    assert app(args=[*command, "0.001us"], standalone_mode=False) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["parity"] == "passed" and told["verdict_kind"] == "missed" and told["latency_ms"] > 0
    with pytest.raises(UserError, match="times nothing"):
        app(args=[*command, "1ms", "--build-only"], standalone_mode=False)


def test_a_run_without_a_pause_is_divided_into_sessions_that_a_server_grants():
    assert sustained_sessions(60, 120) == [60]
    for seconds, session in ((3600, 120), (7200, 120), (86400, 600)):
        lengths = sustained_sessions(seconds, session)
        assert sum(lengths) == pytest.approx(seconds) and len(lengths) > 1
        assert all(session + 2 * length <= SESSION_CAP_SECONDS for length in lengths)
    assert (
        sustained_sessions(60, 120, cap=86400) == sustained_sessions(60, 120)
        and len(sustained_sessions(90, 20, 60)) > 1
    )
    with pytest.raises(UserError, match="every session after 3600 s"):
        sustained_sessions(60, 3600)


@pytest.mark.rpc
@pytest.mark.slow
def test_a_run_without_a_pause_goes_over_the_servers_cap_in_several_sessions(package, host, capsys):
    quick = host.model_copy(update={"timeouts": host.timeouts.model_copy(update={"session": 60})})
    with connect_device(quick) as endpoint, device_timer(quick, endpoint) as timer:
        timer.time(package / "net.so", (1, 1, 16, 16))
        assert int(timer.fingerprint["max_session_seconds"]) >= SESSION_CAP_SECONDS, "the server says what it grants"
        timer.fingerprint["max_session_seconds"] = "66"
        values = timer.sustained(package / "net.so", (1, 1, 16, 16), 7)
    assert "the device ends a session after 66 s; this takes 3 of them" in " ".join(capsys.readouterr().err.split())
    assert len(values) >= 3 and all(value > 0 for value in values)


def test_the_longest_session_is_the_servers_own():
    server = (Path(__file__).parents[2] / "device/server/main.cc").read_text()
    (default,) = re.findall(r'options\.number\("max-session", (\d+),', server)
    assert int(default) == SESSION_CAP_SECONDS
