"""Programs get to a board over a real sshd on loopback and serve through its tunnel; adb's refusals say what to do."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_phone import FakePhone

from tvmfbnet.devices.local import Service, free_port
from tvmfbnet.devices.shells import AdbShell, SshShell, choose_phone
from tvmfbnet.devices.toolchain import cache_folder
from tvmfbnet.devices.tracker import query_tracker
from tvmfbnet.errors import DeviceError

SSHD = "/usr/sbin/sshd"


@pytest.fixture
def ssh_options(tmp_path):
    """A real sshd on loopback that knows one key: the options that reach it."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("sshd or ssh is missing; scripts/setup --emulation installs them")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    port = free_port()
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        f"PidFile {tmp_path}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    daemon = subprocess.Popen([SSHD, "-D", "-f", tmp_path / "config", "-E", tmp_path / "log"])
    try:
        wait_until_open(port)
        known = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        yield [f"Port={port}", f"IdentityFile={tmp_path}/user", "IdentitiesOnly=yes", *known]
    finally:
        daemon.terminate()
        daemon.wait()


def wait_until_open(port):
    """Returns when something listens on a port of loopback; on a busy machine that takes a program a while."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.05)


def tvmfbnet(*words):
    done = subprocess.run([sys.executable, "-m", "tvmfbnet.cli.main", *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.rpc
@pytest.mark.slow
def test_push_start_check_logs_and_stop_over_ssh(ssh_options, tmp_path):
    way = ["--ssh", f"{getpass.getuser()}@127.0.0.1"]
    walk_the_way([*way, *(word for option in ssh_options for word in ("--ssh-option", option))], tmp_path)


@pytest.mark.rpc
@pytest.mark.slow
def test_push_start_check_logs_and_stop_over_adb(connect, tmp_path):
    connect()
    phone = connect()
    walk_the_way(["--serial", phone.serial], tmp_path)


def walk_the_way(way, tmp_path):
    """All that docs/devices.md has a user do with a device, the device being this machine behind ssh or adb."""
    port = free_port()
    target = tmp_path / "board.yaml"
    target.write_text(
        "name: board\ndescription: this machine behind a shell\nexercised: false\ntvm: {kind: llvm}\n"
        f"transport: {{kind: tracker, port: {port}, key: board}}\n"
    )
    way = ["--target", target, *way, "--folder", tmp_path / "board"]
    # Tracker and device share this machine's loopback here, so the tunnel shows the tracker at another port.
    start = ["device", "start", *way, "--port", free_port(), "--device-tracker-port", free_port()]
    tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(port)])
    try:
        tracker.wait_until_ready()
        code, _, error = tvmfbnet(*start)
        assert code == 2 and error.startswith(("error: device", "error: phone")), error
        code, out, error = tvmfbnet("device", "push", *way, "--json")
        assert code == 0, error
        assert json.loads(out)["device"]["system"] == "Linux"
        code, out, error = tvmfbnet(*start, "--json")
        assert code == 0, error
        started = json.loads(out)
        assert started["local_port"] != started["server_port"]
        assert query_tracker("127.0.0.1", port).servers[0]["address"] == ["127.0.0.1", started["local_port"]]
        code, _, error = tvmfbnet(*start)
        assert code == 2 and "a server runs already" in error
        code, out, error = tvmfbnet("targets", "check", target, "--json")
        assert code == 0, out
        checks = {check["name"]: check for check in json.loads(out)["checks"]}
        assert {"toolchain", "tracker", "key", "busy", "connect", "versions", "machine", "canary", "noise"} <= set(
            checks
        )
        assert "tvmfbnet" in checks["versions"]["found"] and "over 50 runs" in checks["noise"]["found"]
        code, out, _ = tvmfbnet("device", "logs", *way)
        assert code == 0 and "session of" in out
    finally:
        code, out, _ = tvmfbnet("device", "stop", *way)
        tracker.stop()
    assert code == 0 and "stopped" in out
    assert not list(Path(tmp_path / "board").glob("session-*"))


def test_ssh_failures_are_one_clear_line(ssh_options, tmp_path):
    with pytest.raises(DeviceError, match="Connection refused"):
        SshShell("nobody@127.0.0.1", [f"Port={free_port()}"], tmp_path).run("true")
    with pytest.raises(DeviceError, match="Permission denied"):
        SshShell("nobody@127.0.0.1", [*ssh_options[:1], *ssh_options[2:], "IdentityAgent=none"], tmp_path).run("true")
    with pytest.raises(DeviceError, match="is no SSH destination"):
        SshShell("-oProxyCommand=true", [], tmp_path)


@pytest.fixture
def adb(monkeypatch, tmp_path):
    """The real adb with a server, a key and a port of its own."""
    program = shutil.which("adb")
    if program is None:
        pytest.skip("adb is missing; scripts/setup --emulation installs it")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder().parent))  # the programs built before
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*words):
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=60).stdout

    yield run
    run("kill-server")


@pytest.fixture
def connect(adb):
    """Makes the real adb see a phone whose end of the protocol is ours."""
    with ExitStack() as stack:

        def connect(**options):
            phone = FakePhone(**options)
            stack.callback(phone.close)
            adb("connect", phone.serial)
            deadline = time.monotonic() + 20
            while f"{phone.serial}\t" not in adb("devices") or f"{phone.serial}\toffline" in adb("devices"):
                assert time.monotonic() < deadline, adb("devices")
                time.sleep(0.1)
            return phone

        yield connect


@pytest.mark.usefixtures("adb")
def test_the_real_adb_without_a_phone_says_what_to_do():
    with pytest.raises(DeviceError, match="no phone is connected: plug one in"):
        AdbShell()
    with pytest.raises(DeviceError, match="phone R58 is not connected; connected: none"):
        AdbShell("R58")


def test_the_real_adb_with_a_phone_that_has_not_allowed_this_computer_says_what_to_do(connect):
    phone = connect(authorised=False)
    with pytest.raises(DeviceError, match=f"phone {phone.serial} has not allowed this computer: unlock it and accept"):
        AdbShell()
    code, _, error = tvmfbnet("device", "push", "--target", "host", "--adb")
    assert code == 2 and "has not allowed this computer" in error and len(error.strip().splitlines()) == 1


def test_the_real_adb_with_several_phones_wants_one_named_and_uses_that_one(connect, adb):
    first, second = connect(), connect()
    with pytest.raises(DeviceError, match="several phones are connected: choose one with --serial") as caught:
        AdbShell()
    assert first.serial in str(caught.value) and second.serial in str(caught.value)
    shell = AdbShell(second.serial)
    assert shell.run("echo here; exit 0") == "here\n"
    with pytest.raises(DeviceError, match=f"phone {second.serial}: it failed"):
        shell.run("echo it failed; exit 3")
    first.close()
    second.close()
    deadline = time.monotonic() + 20
    while "\tdevice" in adb("devices"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(DeviceError, match=r"is not ready \(offline\)|is not connected"):
        AdbShell(second.serial)


def test_a_missing_adb_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    from tvmfbnet.errors import UserError

    with pytest.raises(UserError, match="apt-get install adb"):
        AdbShell()


@pytest.mark.parametrize(
    ("phones", "serial", "message"),
    [
        ([("A", "device"), ("B", "device")], "", "several phones are connected: choose one with --serial"),
        ([("A", "unauthorized")], "", "accept the USB debugging question"),
        ([("A", "offline")], "A", r"not ready \(offline\)"),
        ([("A", "device")], "B", r"phone B is not connected; connected: A \(device\)"),
    ],
)
def test_phones_that_cannot_be_used_are_told_apart(phones, serial, message):
    with pytest.raises(DeviceError, match=message):
        choose_phone(phones, serial)


def test_the_only_phone_or_the_named_one_is_used():
    assert choose_phone([("A", "device")]) == "A"
    assert choose_phone([("A", "device"), ("B", "device")], "B") == "B"
