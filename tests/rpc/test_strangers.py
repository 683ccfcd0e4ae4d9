"""Whoever connects to a server or tracker, or answers in a tracker's place, holds nobody up and breaks nothing."""

import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time

import cloudpickle
import numpy as np
import psutil
import pytest
from strangers import RPC_MAGIC, TRACKER_MAGIC, Crowd, FalseTracker, framed, wait_for

from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.remote import RemoteError, RemoteWorker
from tvmfbnet.rpc.shortlog import printable
from tvmfbnet.rpc.tracker import Endpoint, query_tracker, request_device, require_key
from tvmfbnet.targets.definition import load_target

# The worker process cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


def start_tracker(port, host="127.0.0.1"):
    tracker = Service(["tracker", "--host", host, "--port", str(port)])
    tracker.wait_until_ready()
    return tracker


def start(kind, tracker_address, key="strangers", host="127.0.0.1"):
    """A server of that kind and its port."""
    port = free_port()
    if kind == "native":
        command = server_command(
            load_target("host"), str(build_programs(load_target("host")).server), tracker_address, key
        )
        command += ["--host", host, "--port", str(port), "--until-stdin-closes"]
        server = Service(["server"], program=command)
    else:
        server = Service(["server", "--host", host, "--port", str(port), "--tracker", tracker_address, "--key", key])
    server.wait_until_ready()
    return server, port


@pytest.fixture(params=["native", "python"])
def kind(request):
    return request.param


def make_float(session):
    return float(session.put(np.float32([1.5])).numpy()[0])


def test_silent_and_slow_connections_keep_no_client_out_and_the_server_registers_meanwhile(kind):
    endpoint = Endpoint("127.0.0.1", free_port(), "strangers")
    tracker = start_tracker(endpoint.port)
    server, port = start(kind, endpoint.address)
    slow = RPC_MAGIC + struct.pack("<i", 1000)
    try:
        require_key(endpoint, 30)
        with RemoteWorker(endpoint, "cpu", 60) as worker:
            worker.start()
            assert worker.call(make_float, seconds=60) == 1.5
            with Crowd(port, 500, 8, slow):
                started = time.monotonic()
                assert worker.call(make_float, seconds=60) == 1.5
                assert time.monotonic() - started < 20  # a second, on a quiet machine
                tracker.stop()
                tracker = start_tracker(endpoint.port)
                require_key(endpoint, 10)
                assert worker.call(make_float, seconds=60) == 1.5
        assert server.process.poll() is None
        assert len(server.log) < 10_000, "strangers fill the log"
    finally:
        server.stop()
        tracker.stop()


def crash_here(session, library):
    session.load(library)["main"]()


def last_fault(session):
    return session.remote.get_function("tvmfbnet.device.last_fault")()


def facts_there(session):
    return json.loads(session.remote.get_function("tvmfbnet.device.info")())


def end_by(path, code):
    source, library = path.with_suffix(".c"), path.with_suffix(".so")
    source.write_text(
        f"#include <signal.h>\nint __tvm_ffi_main(void* a, void* b, int n, void* r) {{ {code}; return 0; }}\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def test_a_session_that_a_signal_ends_is_told_with_its_signal_and_the_server_lives_on(kind, tmp_path):
    endpoint = Endpoint("127.0.0.1", free_port(), "strangers")
    trap, killed = (
        end_by(tmp_path / name, code) for name, code in (("trap", "__builtin_trap()"), ("kill", "raise(9)"))
    )
    tracker = start_tracker(endpoint.port)
    server, _ = start(kind, endpoint.address)
    try:
        require_key(endpoint, 30)
        with RemoteWorker(endpoint, "cpu", 60) as worker:
            assert worker.call(last_fault, seconds=60) == ""
            with pytest.raises(RemoteError, match=r"ended by signal 4 \(illegal instruction\)"):
                worker.call(crash_here, trap, seconds=60)
            told = json.loads(worker.call(last_fault, seconds=60))
            assert told["signal"] == 4 and 0 <= told["age_seconds"] < 60 and told["peer"].startswith("127.0.0.1:")
            with pytest.raises(RemoteError, match=r"9 \(killed; the system does that when its memory is short\)"):
                worker.call(crash_here, killed, seconds=60)
        assert "ended by signal 4 (illegal instruction)" in server.log
    finally:
        server.stop()
        tracker.stop()


def test_both_servers_tell_what_is_in_force_under_the_same_names():
    endpoint = Endpoint("127.0.0.1", free_port(), "strangers")
    tracker, told = start_tracker(endpoint.port), {}
    try:
        for kind in ("native", "python"):
            server, _ = start(kind, endpoint.address)
            try:
                require_key(endpoint, 30)
                with RemoteWorker(endpoint, "cpu", 60) as worker:
                    told[kind] = worker.call(facts_there, seconds=60)
            finally:
                server.stop()
                wait_for(lambda: not query_tracker(endpoint.host, endpoint.port).serving("strangers"))
    finally:
        tracker.stop()
    same = {"model", "threads", "allowed_cores", "page_size", "userland_bits", "tvm_version", "ffi_version", "machine"}
    for name in same | {"max_session_seconds", "cores"}:
        assert told["native"].get(name) == told["python"].get(name) != "", name
    assert told["native"]["page_size"] == str(resource.getpagesize())
    assert told["native"]["max_session_seconds"] == "3600"


def test_a_tracker_under_strangers_answers_and_logs_a_line_or_two():
    port = free_port()
    tracker = start_tracker(port)
    poison = [
        b'[5, {"key": 5, "addr": ["h", 1]}]',  # would break every summary
        b'[5, {"key": "server:x", "addr": 3}]',
        b'[3, "phone", [9090, "other:0.5"], null]',  # would stay in the queue for ever
        b'[3, "phone", [9090, {"a": 1}], null]',
        b'[3, {"a": 1}, [9090, "x:1"], null]',
        b'[4, "phone"]',
        b"[2, 1]",
        b"[99]",
        b"[" * 5000,
        b"\xff\xfe{",
        b"{}",
    ]
    try:
        with Crowd(port, 300, 4, TRACKER_MAGIC + struct.pack("<i", 1000)):
            for number in range(300):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    text = poison[number % len(poison)]
                    data = framed(text) if number % 7 else struct.pack("<i", (-5, 2**31 - 1)[number % 2])
                    connection.sendall((TRACKER_MAGIC if number % 5 else b"GET ") + data)
            started = time.monotonic()
            status = query_tracker("127.0.0.1", port)
            assert time.monotonic() - started < 15
            assert status.servers == () and sum(status.free.values()) == 0
        assert tracker.process.poll() is None
        assert "Traceback" not in tracker.log and len(tracker.log) < 15_000
    finally:
        tracker.stop()


HOSTILE = {
    "no magic": {"magic": b"HTTP"},
    "huge": {"answer": struct.pack("<i", 2**31 - 1) + b"x" * 4096},
    "negative": {"answer": struct.pack("<i", -1)},
    "deep": {"answer": framed(b"[" * 200_000)},
    "no UTF-8": {"answer": framed(b"\xff\xfe\x80")},
    "no JSON": {"answer": framed(b"0, x")},
    "a number": {"answer": framed(b"7")},
    "wrong types": {"answer": framed(b'[0, {"server_info": 3, "queue_info": {"a": {"free": "many"}}}]')},
    "long number": {"answer": framed(b"[0, [" + b"9" * 100_000 + b"]]")},
    "no offer": {"answer": framed(b'[0, ["127.0.0.1", 700000, "k:1"]]')},
    "a list": {"answer": framed(b"[0, [[], {}, []]]")},
    "endless": {"answer": framed(b'[0, {"server_info": [' + b'{"key": "k"},' * 400_000)},
    "control": {"answer": framed(b'[-1, "\\u001b[2J\\nTraceback"]')},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tracker_is_one_line_for_the_client(name):
    with FalseTracker(**HOSTILE[name]) as tracker:
        for ask in (
            lambda: query_tracker("127.0.0.1", tracker.port, 3),
            lambda: request_device(Endpoint("127.0.0.1", tracker.port, "k")),
        ):
            started = time.monotonic()
            with pytest.raises(DeviceError) as caught:
                ask()
            assert time.monotonic() - started < 20
            message = str(caught.value)
            assert message == printable(message, 400), message


def test_a_tracker_that_trickles_is_given_up_at_the_deadline():
    with FalseTracker(framed(b" " * 1000), slow=True) as tracker:
        started = time.monotonic()
        with pytest.raises(DeviceError, match="gave no answer within 2 s"):
            query_tracker("127.0.0.1", tracker.port, 2)
        assert time.monotonic() - started < 15
        with pytest.raises(DeviceError, match="gave no answer within 5 s"):
            request_device(Endpoint("127.0.0.1", tracker.port, "k"))


def turned_away_at_once(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(RPC_MAGIC + framed(b"client:strangers:1"))
        stranger.settimeout(2)
        return stranger.recv(4) == struct.pack("<i", 0xFF273)


def test_a_server_outlasts_hostile_trackers_and_comes_back_to_a_good_one(kind):
    place = free_port()
    server, port = start(kind, f"127.0.0.1:{place}")
    trickling = {"answer": framed(b"0" * 100), "slow": True}
    chosen = [HOSTILE[name] for name in ("no magic", "huge", "negative", "deep", "no UTF-8")] + [{}, trickling]
    try:
        for options in chosen:
            with FalseTracker(**options, port=place):
                time.sleep(1.2)  # it tries every second
                assert turned_away_at_once(port), options
        tracker = start_tracker(place)
        try:
            require_key(Endpoint("127.0.0.1", place, "strangers"), 30)
        finally:
            tracker.stop()
        assert psutil.Process(server.process.pid).memory_info().rss < 1e9
        assert len(server.log) < 10_000 and "Traceback" not in server.log
    finally:
        server.stop()


def test_a_server_whose_tracker_is_frozen_ends_with_its_stdin_at_once(kind):
    with FalseTracker(magic=b"") as frozen:
        server, _ = start(kind, f"127.0.0.1:{frozen.port}")
        try:
            time.sleep(0.5)
            server.process.stdin.close()
            server.process.wait(timeout=2)
        finally:
            server.stop()


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")  # noqa: PTH110
def test_trackers_and_servers_listen_and_advertise_over_ipv6(kind):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    endpoint = Endpoint("::1", free_port(), "strangers")
    assert endpoint.address == f"[::1]:{endpoint.port}"
    tracker = start_tracker(endpoint.port, "::1")
    server, port = start(kind, endpoint.address, host="::1")
    try:
        require_key(endpoint, 30)
        assert query_tracker("::1", endpoint.port).servers[0]["address"] == ("::1", port)
        with RemoteWorker(endpoint, "cpu", 60) as worker:
            assert worker.call(make_float, seconds=60) == 1.5
    finally:
        server.stop()
        tracker.stop()


@pytest.mark.parametrize("cores", ["7-4", "900", "0,", "x", "99999999999999999999", "²"])
def test_the_python_server_refuses_cores_that_are_not_there_in_one_line(cores):
    command = [sys.executable, "-m", "tvmfbnet.rpc.serve", "server", "--port", "0", "--key", "k"]
    command += ["--tracker", "127.0.0.1:1", "--cores", cores, "--foreground"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "core" in done.stderr
