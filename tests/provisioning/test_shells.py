"""Programs get to a board over a real sshd on loopback and serve through its tunnel; adb's refusals say what to do."""

import getpass
import json
import shutil
import socket
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from forked import run_command
from loopback_ssh import has_sshd, loopback_sshd

from tvmfbnet.errors import DeviceError
from tvmfbnet.files import make_folder, write_json
from tvmfbnet.provisioning.adb_shell import AdbShell
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.phones import choose_phone, listed_phones
from tvmfbnet.provisioning.remote_server import Started, stop
from tvmfbnet.provisioning.service import Service
from tvmfbnet.provisioning.shell_base import Tunnel
from tvmfbnet.provisioning.shells import SshShell
from tvmfbnet.rpc.tracker import address_text, query_tracker


@pytest.fixture
def ssh_options(tmp_path, request):
    """The options that reach a real sshd on loopback.

    A parameter names the login shell that it shall have; ``noisy`` is sh after a greeting on both streams.
    """
    login_shell = getattr(request, "param", "")
    if not has_sshd():
        pytest.skip("sshd or ssh is missing; scripts/setup --emulation installs them")
    if login_shell not in ("", "noisy") and shutil.which(login_shell) is None:
        pytest.skip(f"{login_shell} is not installed")
    login = f'exec {login_shell} -c "$SSH_ORIGINAL_COMMAND"' if login_shell else ""
    if login_shell == "noisy":
        login = """echo "Welcome to board"; printf '3 \\344 updates\\n' >&2; exec sh -c "$SSH_ORIGINAL_COMMAND" """
    with loopback_sshd(tmp_path, login) as options:
        yield options


def tvmfbnet(*words):
    done = run_command(words)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.rpc
@pytest.mark.slow
@pytest.mark.parametrize("ssh_options", ["noisy"], indirect=True)
def test_push_start_check_logs_and_stop_over_ssh_past_a_greeting(ssh_options, tmp_path):
    way = ["--ssh", f"{getpass.getuser()}@127.0.0.1"]
    walk_the_way([*way, *(word for option in ssh_options for word in ("--ssh-option", option))], tmp_path)


@pytest.mark.rpc
@pytest.mark.slow
def test_push_start_check_logs_and_stop_over_adb(connect, tmp_path):
    connect()
    phone = connect()
    walk_the_way(["--serial", phone.serial], tmp_path)


@pytest.mark.rpc
@pytest.mark.slow
def test_start_registers_with_the_tracker_that_the_target_names(tmp_path):
    # As far from 127.0.0.1 as another machine, for whoever asks the wrong one.
    host, shown = ("::1", "[::1]") if socket.has_ipv6 else ("127.0.0.2", "127.0.0.2")
    port, server_port = free_port(), free_port()
    target = tmp_path / "board.yaml"
    target.write_text(
        "name: board\ndescription: this machine\nexercised: false\ntvm: {kind: llvm}\n"
        f"transport: {{kind: tracker, host: '{host}', port: {port}, key: board}}\n"
    )
    way = ["--target", target, "--folder", tmp_path / "board"]
    assert tvmfbnet("device", "push", *way)[0] == 0
    code, _, error = tvmfbnet("device", "start", *way, "--port", server_port)
    assert code == 2 and f"no tracker at {shown}:{port}" in error and f"--host {host}" in error
    tracker = Service(["tracker", "--host", host, "--port", str(port)])
    try:
        tracker.wait_until_ready()
        code, out, error = tvmfbnet("device", "start", *way, "--port", server_port)
        assert code == 0 and f"at tracker {shown}:{port}" in out, error
        assert [server["key"] for server in query_tracker(host, port).servers] == ["board"]
    finally:
        code, out, _ = tvmfbnet("device", "stop", *way)
        tracker.stop()
    assert code == 0 and "stopped" in out


def walk_the_way(way, tmp_path):
    """All that docs/how-to/boards.md has a user do with a device, the device being this machine behind ssh or adb."""
    port = free_port()
    target = tmp_path / "board.yaml"
    target.write_text(
        "name: board\ndescription: this machine behind a shell\nexercised: false\ntvm: {kind: llvm}\n"
        f"transport: {{kind: tracker, port: {port}, key: board}}\n"
    )
    way = ["--target", target, *way, "--folder", tmp_path / "it's a board!"]
    # Tracker and device share this machine's loopback here, so the tunnel shows the tracker at another port.
    start = ["device", "start", *way, "--port", free_port(), "--device-tracker-port", free_port()]
    tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(port)])
    try:
        tracker.wait_until_ready()
        code, _, error = tvmfbnet(*start)
        assert code == 2 and error.splitlines()[-1].startswith(("error: device", "error: phone")), error
        assert "are not there, or only in part; push them with `tvmfbnet device push" in error
        code, out, error = tvmfbnet("device", "push", *way, "--json")
        assert code == 0, error
        assert json.loads(out)["device"]["system"] == "Linux"
        code, out, error = tvmfbnet(*start, "--json")
        assert code == 0, error
        started = json.loads(out)
        assert started["local_port"] != started["server_port"]
        assert address_text(query_tracker("127.0.0.1", port).servers[0]) == f"127.0.0.1:{started['local_port']}"
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
    assert not list(Path(tmp_path / "it's a board!").glob("session-*"))


def control(tmp_path):
    """A folder for control sockets: their paths must be short, and a test's folder has its long name."""
    return make_folder(tmp_path.parent / str(tmp_path.stat().st_ino))


def me(ssh_options, tmp_path, host="127.0.0.1"):
    return SshShell(f"{getpass.getuser()}@{host}", ssh_options, control(tmp_path))


@pytest.mark.parametrize("ssh_options", ["noisy", "bash", "fish", "csh", "tcsh"], indirect=True)
def test_scripts_and_files_pass_every_login_shell_unchanged(ssh_options, tmp_path):
    shell, folder = me(ssh_options, tmp_path), tmp_path / 'a b\'s "c" $HOME `id` \\ ! 100% ü'
    (tmp_path / "data").write_bytes(bytes(range(256)) * 100)
    shell.put([tmp_path / "data"], str(folder))
    assert (folder / "data").read_bytes() == (tmp_path / "data").read_bytes()
    assert shell.run("printf '%s|' \"$0\" 'a!b' \"$((2 + 3))\"\nfor i in 1 2; do echo $i; done") == "sh|a!b|5|1\n2\n"
    with pytest.raises(DeviceError, match=r": it failed: 'really'!$"):
        shell.run("echo before; echo \"it failed: 'really'!\" >&2; exit 3")
    with pytest.raises(DeviceError, match="ssh failed with exit code 7"):
        shell.run("exit 7")  # the greeting is not its reason


@pytest.mark.parametrize("ssh_options", ["true"], indirect=True)
def test_an_account_without_a_shell_is_told_from_an_empty_answer(ssh_options, tmp_path):
    with pytest.raises(DeviceError, match="the login shell there ran no command"):
        me(ssh_options, tmp_path).run("true")


def ssh_masters(tmp_path):
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if each.info["cmdline"] and str(control(tmp_path)) in " ".join(each.info["cmdline"])
    ]


def test_a_dead_tunnel_is_cleared_away_and_its_port_serves_again(ssh_options, tmp_path):
    shell = me(ssh_options, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as tracker:
        tunnel = Tunnel(free_port(), f"127.0.0.1:{tracker.getsockname()[1]}", free_port(), free_port())
        shell.open_tunnel(tunnel)
        (master,) = ssh_masters(tmp_path)
        master.kill()
        psutil.wait_procs([master], timeout=10)
        assert list(control(tmp_path).iterdir())  # what a dead one leaves
        wait_until_closed(tunnel.seen_port)
        shell.open_tunnel(tunnel)
        socket.create_connection(("127.0.0.1", tunnel.seen_port), 5).close()
        (master,) = ssh_masters(tmp_path)
        master.kill()
        psutil.wait_procs([master], timeout=10)
        shell.close_tunnel(tunnel)
        shell.close_tunnel(tunnel)  # nothing is left to end
    assert not list(control(tmp_path).iterdir()) and not ssh_masters(tmp_path)


def wait_until_closed(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_tunnel_opens_from_a_cache_with_a_long_path(ssh_options, tmp_path):
    shell = SshShell(f"{getpass.getuser()}@127.0.0.1", ssh_options, tmp_path / ("a long name " * 12) / "control")
    tunnel = Tunnel(free_port(), f"127.0.0.1:{free_port()}", free_port(), free_port())
    shell.open_tunnel(tunnel)
    try:
        socket.create_connection(("127.0.0.1", tunnel.seen_port), 5).close()
        assert shell._socket(tunnel).exists() and shell._socket(tunnel).parent.stat().st_mode & 0o077 == 0
    finally:
        shell.close_tunnel(tunnel)
    assert not shell._socket(tunnel).exists()
    shell._socket(tunnel).parent.rmdir()


def test_ipv6_reaches_a_board_and_a_tracker(ssh_options, tmp_path):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    for host in ("[::1]", "::1"):
        assert me(ssh_options, tmp_path, host).run("echo here") == "here\n"
    shell = me(ssh_options, tmp_path, "[::1]")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as tracker:
        tunnel = Tunnel(free_port(), f"[::1]:{tracker.getsockname()[1]}", free_port(), free_port())
        shell.open_tunnel(tunnel)
        try:
            with socket.create_connection(("127.0.0.1", tunnel.seen_port), 5):
                tracker.settimeout(5)
                tracker.accept()[0].close()
        finally:
            shell.close_tunnel(tunnel)


def test_stop_ends_the_tunnel_here_though_the_board_is_gone(ssh_options, tmp_path):
    shell, state = me(ssh_options, tmp_path), tmp_path / "started" / "board"
    started = Started(str(tmp_path), 9090, free_port(), free_port(), "127.0.0.1:9", shell.where)
    shell.open_tunnel(started.tunnel)
    write_json(state / "state.json", asdict(started))
    unreachable = SshShell(shell.destination, [f"Port={free_port()}"], control(tmp_path))
    with pytest.raises(DeviceError, match="Connection refused"):
        stop(unreachable, state)
    assert not (state / "state.json").exists() and not list(control(tmp_path).iterdir())
    psutil.wait_procs(ssh_masters(tmp_path), timeout=10)
    assert not ssh_masters(tmp_path)


@pytest.mark.parametrize("name", ["", "-oProxyCommand=true", "two words", "user@[::1]:22", "user@[]"])
def test_what_is_no_ssh_destination_is_refused(name, tmp_path):
    with pytest.raises(DeviceError, match="is no SSH destination"):
        SshShell(name, [], tmp_path)


def test_ssh_failures_are_one_clear_line(ssh_options, tmp_path):
    with pytest.raises(DeviceError, match="Connection refused"):
        SshShell("nobody@127.0.0.1", [f"Port={free_port()}"], tmp_path).run("true")
    with pytest.raises(DeviceError, match="Permission denied"):
        SshShell("nobody@127.0.0.1", [*ssh_options[:1], *ssh_options[2:], "IdentityAgent=none"], tmp_path).run("true")


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


def test_android_serial_names_the_phone_as_it_does_for_adb_and_serial_goes_before_it(connect, monkeypatch):
    first, second = connect(), connect()
    monkeypatch.setenv("ANDROID_SERIAL", second.serial)
    assert AdbShell().where == f"phone {second.serial}"
    assert AdbShell(first.serial).where == f"phone {first.serial}"
    monkeypatch.setenv("ANDROID_SERIAL", "R58")
    with pytest.raises(DeviceError, match=r"phone R58 \(from ANDROID_SERIAL\) is not connected"):
        AdbShell()


def test_one_phone_that_is_connected_twice_is_one_phone(connect, capsys):
    first, second = connect(hardware_serial="R58M12ABCDE"), connect(hardware_serial="R58M12ABCDE")
    assert AdbShell().where in (f"phone {first.serial}", f"phone {second.serial}")
    assert "phone R58M12ABCDE is connected more than once" in capsys.readouterr().err
    connect(hardware_serial="another")
    with pytest.raises(DeviceError, match="several phones are connected"):
        AdbShell()


def test_the_adb_tunnel_replaces_its_own_entries_and_leaves_those_of_others(connect, adb):
    phone = connect()
    shell, others = AdbShell(phone.serial), (free_port(), free_port())
    tunnel = Tunnel(others[0], f"127.0.0.1:{free_port()}", free_port(), free_port())
    adb("-s", phone.serial, "reverse", f"tcp:{others[0]}", f"tcp:{others[1]}")
    adb("-s", phone.serial, "forward", f"tcp:{others[1]}", "tcp:9")
    with pytest.raises(DeviceError, match=f"its port tcp:{others[0]} leads to tcp:{others[1]} of this machine already"):
        shell.open_tunnel(tunnel)
    shell.close_tunnel(tunnel)
    assert f"tcp:{others[0]} tcp:{others[1]}" in adb("-s", phone.serial, "reverse", "--list")
    tunnel = Tunnel(free_port(), tunnel.tracker, tunnel.server_port, tunnel.local_port)
    shell.open_tunnel(tunnel)
    shell.open_tunnel(tunnel)  # left by an earlier start
    assert f"tcp:{tunnel.seen_port} tcp:{tunnel.tracker.split(':')[1]}" in adb("-s", phone.serial, "reverse", "--list")
    assert f"tcp:{tunnel.local_port} tcp:{tunnel.server_port}" in adb("forward", "--list")
    shell.close_tunnel(tunnel)
    shell.close_tunnel(tunnel)
    reverse, forward = adb("-s", phone.serial, "reverse", "--list"), adb("forward", "--list")
    assert [line.split()[1:] for line in reverse.splitlines() if line] == [[f"tcp:{port}" for port in others]]
    assert [line.split() for line in forward.splitlines() if line] == [[phone.serial, f"tcp:{others[1]}", "tcp:9"]]


def test_a_phone_reaches_another_machines_tracker_by_itself(connect, adb):
    phone = connect()
    shell, elsewhere = AdbShell(phone.serial), Tunnel(free_port(), "192.0.2.5:9190", free_port(), free_port())
    shell.open_tunnel(elsewhere)
    assert shell.tracker_there(elsewhere) == "192.0.2.5:9190"
    assert not adb("-s", phone.serial, "reverse", "--list").strip()
    shell.close_tunnel(elsewhere)
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert shell.tracker_there(Tunnel(9191, f"{host}:9190", 1, 2)) == "127.0.0.1:9191"


def test_serials_with_blanks_are_read_whole():
    output = (
        "* daemon started successfully\nList of devices attached\nR58M12ABCDE\tdevice\n"
        "adb-R58M12ABCDE-aBcDeF (2)._adb-tls-connect._tcp\tdevice\n\n"
    )
    assert listed_phones(output) == [
        ("R58M12ABCDE", "device"),
        ("adb-R58M12ABCDE-aBcDeF (2)._adb-tls-connect._tcp", "device"),
    ]
    assert choose_phone(listed_phones(output), hardware_serial=lambda name: "R58M12ABCDE") == "R58M12ABCDE"
    assert choose_phone(listed_phones(output), "adb-R58M12ABCDE-aBcDeF (2)._adb-tls-connect._tcp").endswith("_tcp")


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
