"""The service speaks its protocol, survives what clients do, and says when it cannot start."""

import math
import socket
import struct
import subprocess
import sys
import threading

import pytest

from tvmfbnet.errors import DeviceError
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import load_core
from tvmfbnet.simulation.cycle_server import serving
from tvmfbnet.simulation.microbenchmarks import assemble

ADD = bytes.fromhex("00040091")  # add x0, x0, #1
BLOCKS = [["add x0, x0, #1"], ["ldr q0, [x0]", "fmla v1.4s, v0.4s, v2.4s"], ["ret"]]


def request(blocks):
    return struct.pack("<I", len(blocks)) + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def ask(client, blocks):
    client.sendall(request(blocks))
    return list(struct.unpack(f"<{len(blocks)}d", client.recv(8 * len(blocks), socket.MSG_WAITALL)))


def connected(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(60)
    client.connect(str(path))
    return client


@pytest.fixture
def server(llvm, tmp_path):
    path = tmp_path / "cycles"
    with serving(load_core("a76"), tmp_path, path):
        yield path


def test_it_answers_several_requests_and_clients(server, tmp_path):
    blocks = [assemble(text) for text in BLOCKS]
    expected = BlockCycles(load_core("a76"), tmp_path).of(blocks)
    with connected(server) as first, connected(server) as second:
        assert ask(first, blocks) == expected
        assert ask(second, blocks[:1]) == expected[:1]
        assert ask(first, blocks[::-1]) == expected[::-1]
        assert ask(first, []) == []


def test_clients_at_one_time_get_the_same_answers(server):
    blocks = [ADD * count for count in range(1, 30)]
    answers = []

    def client():
        with connected(server) as connection:
            answers.append(ask(connection, blocks))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    "bad",
    [b"\x01", struct.pack("<I", 1 << 30), struct.pack("<II", 1, 1 << 30), struct.pack("<II", 1, 8) + b"abc"],
)
def test_a_malformed_request_ends_its_connection_alone(server, bad):
    with connected(server) as client:
        client.sendall(bad)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    with connected(server) as client:
        assert ask(client, [ADD])[0] > 0


def test_what_cannot_be_worked_out_is_nan(server, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no more memory")

    monkeypatch.setattr("tvmfbnet.simulation.block_cycles.schedule", fail)
    with connected(server) as client:
        assert math.isnan(ask(client, [ADD * 3])[0])
    assert "no more memory" in caplog.text


def test_the_socket_of_a_dead_server_is_replaced_and_that_of_a_live_one_is_not(llvm, tmp_path):
    path = tmp_path / "cycles"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    second = serving(load_core("a76"), tmp_path, path)
    with serving(load_core("a76"), tmp_path, path), pytest.raises(DeviceError, match="another cycle server"):
        second.__enter__()
    assert not path.exists()


@pytest.mark.parametrize("name, said", [("d/" + "x" * 120, "too long"), ("missing/cycles", "cannot listen")])
def test_a_socket_that_cannot_be_made_is_one_clear_line(llvm, tmp_path, name, said):
    with pytest.raises(DeviceError, match=said), serving(load_core("a76"), tmp_path, tmp_path / name):
        pass


def program(*arguments):
    command = [sys.executable, "-m", "tvmfbnet.simulation.cycle_server", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_program_serves_until_its_input_ends(llvm, tmp_path):
    path = tmp_path / "cycles"
    with program("--core", "a55", "--folder", tmp_path, "--socket", path) as process:
        assert process.stdout.readline() == "ready\n"
        with connected(path) as client:
            assert ask(client, [ADD])[0] > 0
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert not path.exists()


def test_the_program_refuses_an_unknown_core_in_one_line(tmp_path):
    with program("--core", "a99", "--folder", tmp_path, "--socket", tmp_path / "cycles") as process:
        assert process.wait(timeout=30) == 2
        assert process.stderr.read().startswith("error: unknown core 'a99'")
