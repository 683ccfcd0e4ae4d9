"""The native server and runner: small, quick to start, hard to harm, equal to PyTorch."""

import contextlib
import json
import math
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import numpy as np
import psutil
import pytest
import torch
from device_samples import compile_small, run_package

from tvmfbnet.errors import DeviceError
from tvmfbnet.nets.network import ExportedNet
from tvmfbnet.provisioning.loopback import free_port, local_tracker
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.device_facts import device_facts
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.tracker import require_key
from tvmfbnet.targets.definition import load_target
from tvmfbnet.targets.tvm_runtime import installed_versions

# The worker process cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture(scope="module")
def programs():
    return build_programs(load_target("host"))


@pytest.fixture(scope="module")
def running(programs, tmp_path_factory):
    """A native server under a tracker: (endpoint, service, its folder, its port)."""
    folder, port = tmp_path_factory.mktemp("sessions"), free_port()
    with local_tracker("native") as endpoint:
        command = server_command(load_target("host"), str(programs.server), endpoint.address, "native")
        command += ["--port", str(port), "--folder", str(folder), "--until-stdin-closes"]
        service = Service(["server"], program=command)
        try:
            service.wait_until_ready()
            require_key(endpoint, 20)
            yield endpoint, service, folder, port
        finally:
            service.stop()


def put_file(session, name, size):
    session.remote.get_function("tvm.rpc.server.upload")(name, bytearray(size))
    return True


def make_float(session):
    return float(session.put(np.float32([1.5])).numpy()[0])


def wait_for(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_the_device_side_is_under_ten_megabytes_and_starts_in_under_a_second(programs):
    assert programs.bytes < 10e6
    started = time.monotonic()
    facts = json.loads(subprocess.run([programs.server, "--info"], capture_output=True, check=True, text=True).stdout)
    assert time.monotonic() - started < 1
    assert facts["tvm_version"] == installed_versions()["apache-tvm"]
    assert installed_versions()["apache-tvm-ffi"].startswith(facts["ffi_version"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x", "--key", "k"], "a whole number from 0 to 65535"),
        (["--bogus"], "unknown option '--bogus'"),
        (["--key"], "needs a value"),
        ([], "--key is needed"),
        (["--key", "k", "--tracker", "here"], "write HOST:PORT"),
        (["--key", "k", "--folder", "/nowhere"], "which is no folder"),
        (["--key", "k", "--tracker", "::1:9190"], "[ADDRESS]:PORT for IPv6"),
        (["--key", "k", "--tracker", "[::1]:0"], "a whole number from 1 to 65535"),
        (["--key", "k", "--advertise", "[]:90"], "--advertise is '[]:90'"),
        (["--key", "k", "--port", "99999999999999999999"], "a whole number from 0 to 65535"),
        (["--key", "k", "--port", " 9"], "a whole number from 0 to 65535"),
        (["--key", "k", "--port", "+9"], "a whole number from 0 to 65535"),
        (["--key", "k", "--port", "9x"], "a whole number from 0 to 65535"),
        (["--key", "k", "--port", "90", "--port-end", "80"], "a whole number from 90 to 65535"),
        (["--key", "k", "--threads", "-1"], "a whole number from 1 to 1024"),
        (["--key", "k", "--threads", "1000000"], "a whole number from 1 to 1024"),
        (["--key", "k", "--max-session", "1e9"], "a whole number from 1 to 86400"),
        (["--key", "k" * 2000], "at most 128 letters"),
        (["--key", "k\x1b"], "at most 128 letters"),
        (["--key", "k", "--cores", "0-"], "a core is ''"),
        (["--key", "k", "--cores", "7-4"], "cores '7-4' run backwards: write 4-7"),
        (["--key", "k", "--cores", "900"], "not all of the cores 900 can be used here; this process may use"),
        (["--key", "k", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_two(programs, arguments, message):
    done = subprocess.run([programs.server, *arguments], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert any(part in done.stderr for part in message.split("|"))


def test_cores_and_threads_are_applied_on_the_device_and_told(programs):
    done = subprocess.run(
        [programs.server, "--info", "--cores", "1", "--threads", "3"], capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert (facts["allowed_cores"], facts["threads"]) == ("1", "3")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", ".hidden", "", "n" * 300])
def test_an_uploaded_name_cannot_leave_the_session_folder(running, name):
    endpoint, _, folder, _ = running
    with RemoteWorker(endpoint, "cpu", 60) as worker, pytest.raises(DeviceError, match="plain file names only"):
        worker.call(put_file, name, 8, seconds=90)
    assert not list(folder.parent.rglob("*evil*"))


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", ".hidden"])
def test_the_python_server_refuses_the_same_names(name):
    from tvmfbnet.rpc.device_server import plain_name

    assert plain_name("net.so") == "net.so"
    with pytest.raises(ValueError, match="plain file names only"):
        plain_name(name)


def test_garbage_wrong_keys_and_silence_are_turned_away_and_the_server_goes_on(running):
    endpoint, service, _, port = running
    wrong = b"client:native:1234"
    for data in (
        b"",
        b"\0",
        b"GET / HTTP/1.0\r\n\r\n" * 50,
        struct.pack("<ii", 0xFF271, 2**31 - 1),
        struct.pack("<ii", 0xFF271, -5),
        struct.pack("<ii", 0xFF271, len(wrong)) + wrong,
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(5)
            answer = connection.recv(4)
            assert answer != struct.pack("<i", 0xFF271), "the server took a stranger in"
    silent = socket.create_connection(("127.0.0.1", port))  # stays open and says nothing
    with RemoteWorker(endpoint, "cpu", 60) as worker:
        assert worker.call(make_float, seconds=90) == 1.5
    silent.close()
    assert service.process.poll() is None
    assert "does not hold the key" in service.log and "not a TVM client" in service.log


def test_a_session_that_is_killed_or_too_long_ends_alone_and_leaves_no_file(running):
    endpoint, service, folder, _ = running
    server = psutil.Process(service.process.pid)
    with RemoteWorker(endpoint, "cpu", 3) as worker, pytest.raises(DeviceError):
        worker.call(_sleep_there, seconds=60)
    wait_for(lambda: not server.children() and not list(folder.iterdir()))
    assert "took longer than its time" in service.log
    with RemoteWorker(endpoint, "cpu", 60) as worker:
        assert worker.call(put_file, "plain.bin", 8, seconds=90)


def _sleep_there(session):
    array = session.put(np.zeros(4, np.float32))
    time.sleep(8)  # the session is idle there, and longer than its time
    return float(array.numpy()[0])


def test_a_full_disk_is_an_error_and_not_half_a_file(running):
    endpoint, service, folder, _ = running
    import resource

    process = psutil.Process(service.process.pid)
    # No file larger than 4 KiB: the nearest to a full disk without being root.
    process.rlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        with RemoteWorker(endpoint, "cpu", 60) as worker, pytest.raises(DeviceError, match="cannot write an uploaded"):
            worker.call(put_file, "large.so", 100_000, seconds=90)
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: not list(folder.rglob("large.so")))


def test_the_server_comes_back_to_a_tracker_that_was_gone(programs):
    port = free_port()
    tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(port)])
    tracker.wait_until_ready()
    from tvmfbnet.rpc.tracker import Endpoint

    endpoint = Endpoint("127.0.0.1", port, "back")
    command = server_command(load_target("host"), str(programs.server), endpoint.address, "back")
    server = Service(["server"], program=[*command, "--port", "0", "--until-stdin-closes"])
    try:
        server.wait_until_ready()
        require_key(endpoint, 20)
        tracker.stop()
        wait_for(lambda: "trying again" in server.log)
        tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(port)])
        tracker.wait_until_ready()
        require_key(endpoint, 20)
        with RemoteWorker(endpoint, "cpu", 60) as worker:
            assert worker.call(device_facts, seconds=90)["server"].startswith("tvmfbnet")
    finally:
        server.stop()
        tracker.stop()


def test_the_server_ends_cleanly_on_sigterm(programs):
    process = subprocess.Popen(
        [programs.server, "--key", "k", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0
    assert "ending on signal 15" in process.stderr.read()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A small net and its package for this machine."""
    return compile_small("host", tmp_path_factory.mktemp("package"))


def test_the_runner_equals_pytorch_and_times_the_net(programs, compiled, tmp_path):
    net, package = compiled
    output, expected, printed = run_package([programs.runner], net, package, tmp_path)
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()
    assert printed["arch"] == package.arch and len(printed["repeats_ms"]) == 3
    assert 0 < printed["min_ms"] <= printed["latency_ms"] <= printed["p90_ms"] < 1000


def test_the_runner_writes_each_of_several_outputs_to_a_file_of_its_name(programs, tmp_path):
    net, package = compile_small("host", tmp_path, "@16,classes=3,head=ssdlite")
    image = np.random.default_rng(3).standard_normal(package.input_shape).astype(np.float32)
    image.tofile(tmp_path / "input.bin")
    command = [programs.runner, "--package", package.folder, "--input", tmp_path / "input.bin", "--repeats", "0"]
    done = subprocess.run([*command, "--output", tmp_path / "answers"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = dict(zip(("scores", "boxes"), ExportedNet(net.eval())(torch.from_numpy(image)), strict=True))
    for name, values in expected.items():
        got = np.fromfile(tmp_path / f"answers.{name}", np.float32)
        assert np.abs(got - values.numpy().reshape(-1)).max() < 1e-4
    printed = json.loads(done.stdout)
    assert printed["output_values"] == {name: values.numel() for name, values in expected.items()}
    assert printed["outputs"] == sum(printed["output_values"].values())


def test_the_runner_takes_values_of_the_type_that_the_package_names(programs, compiled, tmp_path):
    folder = Path(shutil.copytree(compiled[1].folder, tmp_path / "package"))
    described = json.loads((folder / "package.json").read_text())
    size = 4 * math.prod(described["input_shape"])
    (tmp_path / "image.bin").write_bytes(b"\0" * size)
    command = [programs.runner, "--package", folder, "--input", tmp_path / "image.bin", "--repeats", "0"]

    def run(**changes):
        kept = {name: value for name, value in {**described, **changes}.items() if value is not None}
        (folder / "package.json").write_text(json.dumps(kept))
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert run().returncode == 0
    older = run(input_dtype=None, outputs=None)
    assert older.returncode == 0, "a package that does not say is float32 and has one output"
    assert json.loads(older.stdout)["output_values"] == {"output": 10}
    doubled = run(input_dtype="float64")
    assert doubled.returncode == 2
    assert f"holds {size} bytes, but the net's input takes {2 * size}" in doubled.stderr


def test_the_runner_refuses_what_is_wrong_in_one_line(programs, compiled, tmp_path):
    _, package = compiled
    described = json.loads((package.folder / "package.json").read_text())
    (tmp_path / "short.bin").write_bytes(b"\0" * 12)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "package.json").write_text('{"arch": 3, "library": "net.so"}')
    for name, text in {
        "deep": "[" * 100_000,
        "outside": json.dumps({"library": "../net.so", "arch": "a"}),
        "large": json.dumps({**described, "input_shape": [2**40, 2**40]}),
        "foreign": json.dumps(described),
        "typeless": json.dumps({**described, "input_dtype": "words"}),
        "climbing": json.dumps({**described, "outputs": [{"name": "../x"}]}),
        "listless": json.dumps({**described, "outputs": ["x"]}),
        "more": json.dumps({**described, "outputs": [{"name": "x"}, {"name": "y"}]}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "package.json").write_text(text)
    source = tmp_path / "foreign.c"
    source.write_text("int nothing_here;\n")
    shutil.copy(package.library, tmp_path / "more")
    foreign = tmp_path / "foreign" / described["library"]
    subprocess.run(["cc", "-shared", "-fPIC", "-o", foreign, source], check=True)
    for arguments, message in (
        ([], "--package is needed"),
        (["--package", tmp_path], "cannot read"),
        (["--package", broken], "'arch' is of the wrong kind"),
        (["--package", tmp_path / "deep"], "too large or too deep"),
        (["--package", tmp_path / "outside"], "'library' is not a file's name"),
        (["--package", tmp_path / "large"], "not a list of sizes, or too large"),
        (["--package", tmp_path / "typeless"], "'input_dtype' is not a type that this program knows: words"),
        (["--package", tmp_path / "climbing"], "an output's 'name' is empty or holds a slash"),
        (["--package", tmp_path / "listless"], "'outputs' is not a list of objects"),
        (["--package", tmp_path / "more"], "gives 1 tensors, but package.json names 2"),
        (["--package", tmp_path / "foreign"], "is no compiled net: it has no function"),
        (["--package", package.folder, "--input", tmp_path / "short.bin"], "holds 12 bytes, but the net's input takes"),
        (["--package", package.folder, "--output", "/nowhere/x", "--repeats", "0"], "cannot write /nowhere/x"),
    ):
        done = subprocess.run([programs.runner, *arguments], capture_output=True, text=True, timeout=60)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert message in done.stderr
