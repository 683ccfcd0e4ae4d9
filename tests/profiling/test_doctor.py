"""The doctor says what is found and what to do, line by line, fails where something is wrong, and never hangs."""

import sys
import time

import cloudpickle
import psutil
import pytest
from bundle_samples import make_ndk

from tvmfbnet.compiler.library import linker
from tvmfbnet.errors import DeviceError
from tvmfbnet.profiling.doctor import _cores, _machine, examine
from tvmfbnet.provisioning.loopback import free_port, local_tracker
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.tracker import query_tracker, require_key
from tvmfbnet.targets.definition import Target, load_target

# The worker process cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def put_file(session, name):
    session.remote.get_function("tvm.rpc.server.upload")(name, bytearray(8))


def target_at(port, **fields):
    transport = {"kind": "tracker", "port": port, "key": "board"}
    base = {"name": "board", "description": "x", "exercised": False, "tvm": {"kind": "llvm"}, "transport": transport}
    return Target.model_validate({**base, **fields})


def checks(target):
    return {check.name: check for check in examine(target, linker)}


def test_a_missing_toolchain_and_tracker_are_two_lines_with_what_to_do():
    seen = checks(target_at(free_port(), toolchain={"kind": "cxx", "command": "no-such-c++"}))
    assert not seen["toolchain"].ok and "no-such-c++" in seen["toolchain"].advice
    assert not seen["tracker"].ok and "start one with `tvmfbnet tracker" in seen["tracker"].advice
    assert set(seen) == {"toolchain", "tracker"}


def test_an_ndk_that_is_missing_or_too_old_is_named(monkeypatch, tmp_path):
    android = {"kind": "llvm", "mtriple": "aarch64-linux-android"}
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    seen = checks(target_at(free_port(), tvm=android))["ndk"]
    assert seen.ok and seen.found == "missing" and "unpack r27 or later" in seen.advice  # a phone may be ready
    monkeypatch.setenv("ANDROID_NDK_HOME", str(make_ndk(tmp_path / "ndk", revision="25.2.9519653", library=False)))
    seen = checks(target_at(free_port(), tvm=android))["ndk"]
    assert not seen.ok and "is r25 (25.2.9519653)" in seen.advice


@pytest.mark.parametrize(
    ("cores", "advice"),
    [("0-1", ""), ("0", "end the server and start it for this target"), ("4-7", "the device has cores 0-1: correct")],
)
def test_a_server_on_other_cores_than_the_targets_is_named(cores, advice):
    (check,) = [_cores(target_at(1, cores=cores), {"allowed_cores": "0,1", "cores": "2"})]
    assert check.ok == (not advice) and check.advice.startswith(advice)


def test_a_32_bit_server_under_a_64_bit_kernel_is_named():
    check = _machine(target_at(1), {"machine": "aarch64", "userland_bits": "32"})
    assert not check.ok and "install a 64-bit system" in check.advice


def test_what_listens_and_is_no_tracker_is_told_within_the_deadline():
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(DeviceError, match="gave no answer within 1 s"):  # it accepts and says nothing
            query_tracker("127.0.0.1", port, seconds=1)
        assert time.monotonic() - started < 15

        def answer():
            connection, _ = listener.accept()
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(DeviceError, match=r"is not a TVM tracker|cannot ask the tracker"):
            query_tracker("127.0.0.1", port, seconds=2)


@pytest.mark.rpc
@pytest.mark.slow
def test_a_frozen_tracker_and_a_wrong_key_are_told_within_their_deadlines():
    port = free_port()
    tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(port)])
    try:
        tracker.wait_until_ready()
        seen = checks(target_at(port))
        assert not seen["key"].ok and "keys served: none" in seen["key"].advice
        frozen = psutil.Process(tracker.process.pid)
        frozen.suspend()
        while frozen.status() != psutil.STATUS_STOPPED:  # on a busy machine its threads stop one after another
            time.sleep(0.05)
        seen = checks(target_at(port))
        assert not seen["tracker"].ok and "is it frozen?" in seen["tracker"].advice
    finally:
        tracker.stop()


def test_threads_that_must_share_cores_are_named():
    two = target_at(1, threads=2)
    assert "2 threads share 1 core(s)" in _machine(two, {"allowed_cores": "3"}).advice
    assert not _machine(two, {"allowed_cores": "0-1"}).advice
    assert not _machine(two, {}).advice and _machine(two, {"allowed_cores": "3"}).ok


@pytest.mark.rpc
@pytest.mark.slow
def test_a_healthy_python_server_passes_and_another_machines_target_does_not():
    from tvmfbnet.provisioning.loopback import start_server

    host = load_target("host")
    with local_tracker("board") as endpoint:
        server = start_server(host.model_copy(update={"cores": "0"}), endpoint)
        try:
            server.wait_until_ready()
            require_key(endpoint, 30)
            seen = checks(target_at(endpoint.port, tvm={"kind": "llvm", "mcpu": "native"}))
            assert all(check.ok for check in seen.values()), seen
            assert {"busy", "connect", "versions", "machine", "canary", "noise", "governor"} <= set(seen)
            assert "%" in seen["noise"].found
            with RemoteWorker(endpoint, "cpu", 60) as worker:
                with pytest.raises(DeviceError, match="plain file names only"):
                    worker.call(put_file, "../evil", seconds=90)
                worker.call(put_file, "fine.bin", seconds=90)
            arm = {"kind": "llvm", "mtriple": "riscv64-linux-gnu"}
            wrong = checks(target_at(endpoint.port, tvm=arm, toolchain={"kind": "cxx", "command": "no-such-c++"}))
            assert not wrong["machine"].ok and "compiles for riscv64" in wrong["machine"].advice
        finally:
            server.stop()
