"""What tests of adb share: the real adb with a server of its own, and phones that it takes for real ones."""

import shutil
import subprocess
import time
from contextlib import ExitStack

import pytest
from fake_phone import FakePhone

from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.tools import cache_folder


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
