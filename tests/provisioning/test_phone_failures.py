"""What can go wrong with a phone in the middle of the work is one line that says what to do."""

import pytest
from android_root import AndroidRoot, what_is_missing
from bundle_samples import fake_programs

from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.adb_shell import AdbShell
from tvmfbnet.provisioning.pushing import push, require_pushed
from tvmfbnet.provisioning.shell_base import Tunnel
from tvmfbnet.targets.definition import load_target

HOST = load_target("host")
LARGE = "x" * 3_000_000


def failure_of(work, *arguments):
    with pytest.raises(DeviceError) as caught:
        work(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_phone_that_is_unplugged_during_a_push_is_named_and_the_push_is_repeated(connect, tmp_path):
    phone, folder = connect(unplugged_after=len(LARGE) // 2), str(tmp_path / "phone")
    programs = fake_programs(tmp_path / "programs", liba_so=LARGE)
    shell = AdbShell(phone.serial)
    said = failure_of(push, shell, programs, folder)
    assert said.startswith(f"phone {phone.serial} was lost in the middle (adb: ")
    assert said.endswith("check its cable, unlock it, and run the command again")
    assert "was lost in the middle" in failure_of(shell.run, "true")
    again = AdbShell(connect().serial)
    assert "are not there, or only in part" in failure_of(require_pushed, again, HOST, folder)
    push(again, programs, folder)
    require_pushed(again, HOST, folder)


def test_a_phone_that_is_lost_before_the_tunnel_opens_is_named(connect):
    phone = connect()
    shell = AdbShell(phone.serial)
    phone.close()
    tunnel = Tunnel(9190, "127.0.0.1:9190", 9090, 9091)
    assert "was lost in the middle" in failure_of(shell.open_tunnel, tunnel)
    shell.close_tunnel(tunnel)


def test_a_script_that_fails_on_a_phone_that_is_there_keeps_its_own_message(connect):
    shell = AdbShell(connect().serial)
    assert failure_of(shell.run, "echo cannot do it >&2; exit 3") == f"{shell.where}: cannot do it"


def test_a_full_phone_says_so_and_what_was_pushed_before_still_starts(connect, tmp_path):
    if what_is_missing():
        pytest.skip(what_is_missing())
    system = AndroidRoot(tmp_path / "android", data_mb=2)
    try:
        shell = AdbShell(connect(system=system).serial)
        folder = push(shell, fake_programs(tmp_path / "small", liba_so="small"))
        said = failure_of(push, shell, fake_programs(tmp_path / "large", liba_so=LARGE))
        assert "No space left on device; free space on it, or name a folder elsewhere with --folder" in said
        require_pushed(shell, HOST, folder)
    finally:
        system.close()


def test_androids_shell_and_tools_take_the_scripts_that_devices_get(connect, tmp_path):
    if what_is_missing():
        pytest.skip(what_is_missing())
    system = AndroidRoot(tmp_path / "android")
    try:
        shell = AdbShell(connect(system=system).serial)
        folder = push(shell, fake_programs(tmp_path / "programs", liba_so="a"))
        require_pushed(shell, HOST, folder)
        system.path(f"{folder}/liba.so").write_text("b")
        assert "were changed or damaged" in failure_of(require_pushed, shell, HOST, folder)
        assert shell.run("printf '%s' \"it's \\$HOME\"") == "it's $HOME"
        said = failure_of(push, shell, fake_programs(tmp_path / "more"), "/sdcard/tvmfbnet")
        assert "Read-only file system" in said
    finally:
        system.close()
