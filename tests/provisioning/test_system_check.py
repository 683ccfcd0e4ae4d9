"""A device that cannot run what would be built for it is told apart before anything is built, in one line."""

import os
import platform
import subprocess
import sys
import time

import pytest

from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.loopback import local_tracker
from tvmfbnet.provisioning.shell_base import Shell
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.provisioning.system_check import check_system, read_system
from tvmfbnet.targets.definition import Target, load_target


class Board(Shell):
    """This machine with other answers: the probe runs for real, the programs that it asks are stand-ins."""

    where = "device pi@board"
    put = tracker_there = open_tunnel = close_tunnel = None

    def __init__(self, folder, **answers):
        self._tools = folder / "tools"
        self._tools.mkdir()
        for name, text in answers.items():
            (self._tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (self._tools / name).chmod(0o755)

    def run(self, script, seconds=60.0):
        return LocalShell(self._tools).run(f"PATH={self._tools}:$PATH\n{script}", seconds)


def uname(system, machine):
    return f'[ "$1" = -m ] && echo {machine} || echo {system}'


MISSING = "exit 127"
PI = {"uname": uname("Linux", "aarch64")}


def board_target(**fields):
    base = {"name": "board", "description": "x", "exercised": False, "transport": {"key": "board"}}
    return Target.model_validate({**base, "tvm": {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}, **fields})


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({**PI, "getconf": "echo 32", "dpkg": "echo armhf"}, "this system is 32-bit (armhf) under a 64-bit kernel"),
        ({**PI, "getconf": "echo 32", "dpkg": MISSING}, "this system is 32-bit under a 64-bit kernel"),
        ({**PI, "getconf": MISSING, "dpkg": "echo armhf"}, "this system is 32-bit (armhf) under a 64-bit kernel"),
        (
            {**PI, "getconf": MISSING, "dpkg": MISSING, "od": "echo '   1'"},
            "this system is 32-bit under a 64-bit kernel",
        ),
        (
            {**PI, "getconf": "echo 32", "dpkg": MISSING, "getprop": "echo armeabi-v7a"},
            "this system is 32-bit (armeabi-v7a) under a 64-bit kernel",
        ),
        ({"uname": uname("Linux", "armv7l"), "getconf": "echo 32"}, "this system is armv7l, and target board is for"),
        ({"uname": uname("Linux", "x86_64"), "getconf": "echo 64", "dpkg": MISSING}, "this system is x86_64, and"),
        ({"uname": uname("Darwin", "arm64"), "getconf": "echo 64", "dpkg": MISSING}, "this system is Darwin, and the"),
        ({**PI, "getconf": "echo 64", "dpkg": "echo arm64"}, "this system has no /lib/ld-linux-aarch64.so.1"),
    ],
)
def test_a_system_that_cannot_run_the_programs_is_named(answers, message, tmp_path):
    if "has no" in message and os.path.exists("/lib/ld-linux-aarch64.so.1"):  # noqa: PTH110
        pytest.skip("this machine runs such programs")
    with pytest.raises(DeviceError) as caught:
        check_system(Board(tmp_path, **answers), board_target())
    assert str(caught.value).startswith(f"device pi@board: {message}")
    assert ("install a 64-bit system" in str(caught.value)) == ("bit" in message or "armv7l" in message)


def test_this_machine_passes_and_so_does_an_emulated_one(tmp_path):
    shell = LocalShell(tmp_path)
    system = read_system(shell)
    assert (system.system, system.machine, system.userland) == ("Linux", platform.machine(), "")
    check_system(shell, load_target("host"), cores=True)
    check_system(shell, load_target("qemu_arm"))
    with pytest.raises(DeviceError, match="name the device with --ssh or --adb"):
        check_system(shell, board_target(tvm={"kind": "llvm", "mtriple": "riscv64-linux-gnu"}))


def test_cores_that_are_not_there_are_named_before_the_server_is_started(tmp_path):
    shell = LocalShell(tmp_path)
    there = os.cpu_count()
    target = board_target(tvm={"kind": "llvm"}, cores=f"0,{there + 50}-{there + 53}")
    check_system(shell, target)
    with pytest.raises(DeviceError, match=rf"target board asks for cores 0,{there + 50}-{there + 53}, and there are 0"):
        check_system(shell, target, cores=True)


@pytest.mark.rpc
def test_push_to_a_32_bit_system_ends_before_anything_is_built(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text(
        '#!/bin/bash\nuname() { [ "$1" = -m ] && echo aarch64 || echo Linux; }\ngetconf() { echo 32; }\n'
        'dpkg() { echo armhf; }\nexport -f uname getconf dpkg\nsh() { bash "$@"; }\nexport -f sh\n'
        'exec bash -c "${!#}"\n'
    )
    (tools / "ssh").chmod(0o755)
    target = tmp_path / "board.yaml"
    target.write_text(
        "name: board\ndescription: x\nexercised: false\ntransport: {key: board}\n"
        "tvm: {kind: llvm, mtriple: aarch64-linux-gnu}\n"
    )
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    said = "this system is 32-bit (armhf) under a 64-bit kernel; install a 64-bit system"
    with local_tracker("board") as tracker:
        for action, options in (("push", ()), ("start", ("--tracker-port", str(tracker.port)))):
            began = time.monotonic()
            command = [sys.executable, "-m", "tvmfbnet.cli.main", "device", action, "--target", target, *options]
            done = subprocess.run([*command, "--ssh", "pi@board"], env=env, capture_output=True, text=True)
            assert done.returncode == 2, done.stderr
            assert done.stderr.splitlines()[-1] == f"error: device pi@board: {said}", done.stderr
            assert time.monotonic() - began < 60
    assert not list((tmp_path / "cache").rglob("programs-*"))
