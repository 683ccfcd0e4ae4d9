"""Building, pushing and starting name each step as it begins, and say within it how far they are."""

import re
import threading
import time

import pytest
from bundle_samples import fake_programs

from tvmfbnet.cli import terminal
from tvmfbnet.errors import UserError
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.pushing import push
from tvmfbnet.provisioning.shell_base import run_program, show_files
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.targets.definition import load_target

# Speaks as Ninja does, as slowly as a compiler.
CMAKE = """#!/bin/sh
case $1 in
  -S) sleep 0.3; echo "-- The CXX compiler is fine";;
  --build) for i in 1 2 3; do echo "[$i/3] Building CXX object server.dir/device/server/part$i.cc.o"; sleep 0.5; done;;
  --install) mkdir -p "$4"; for name in tvmfbnet-server tvmfbnet-run liba.so; do echo "$name" >"$4/$name"; done;;
esac
"""


@pytest.fixture
def quick_heartbeat(monkeypatch):
    monkeypatch.setattr(terminal, "SILENCE", 0.1)


@pytest.fixture
def cmake(tmp_path, monkeypatch):
    """Puts a script in CMake's place."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(script):
        for name in ("cmake", "ninja"):
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)

    return put


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_build_names_each_step_and_the_file_that_is_compiled(cmake, capfd):
    cmake(CMAKE)
    programs = build_programs(load_target("host"))
    said = capfd.readouterr().err
    named = [line for line in said.splitlines() if line.endswith(": ...")]
    assert named == [f"device programs: {what}: ..." for what in ("configuring", "compiling and linking", "checking")]
    for part in (1, 2, 3):
        assert re.search(rf"compiling and linking: \([0-9]+ s\) {part} of 3: part{part}\.cc\.o", said), said
    assert said.rstrip().splitlines()[-1].startswith("device programs: built, ")
    assert build_programs(load_target("host")) == programs
    assert capfd.readouterr().err.strip().endswith(f"built before, in {programs.folder}")


def test_a_build_that_hangs_is_ended_and_one_that_fails_says_why(cmake, monkeypatch):
    cmake("#!/bin/sh\necho 'fatal error: no such header'; exit 1\n")
    with pytest.raises(UserError, match="building the device programs failed: fatal error: no such header"):
        build_programs(load_target("host"))
    cmake("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("tvmfbnet.provisioning.programs._BUILD_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"took longer than 0\.2 s"):
        build_programs(load_target("host"))
    assert time.monotonic() - started < 30


class Slow(LocalShell):
    """This machine behind a slow line."""

    def put(self, files, folder, now=None):
        super().put(files, folder)
        for number in range(len(files)):
            show_files(now, files, number)
            time.sleep(0.3)


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_push_names_its_steps_and_says_how_many_files_and_bytes_have_gone(tmp_path, capfd):
    programs = fake_programs(tmp_path / "one", liba_so="a" * 3_000_000)
    push(Slow(tmp_path / "device"), programs)
    said = capfd.readouterr().err
    named = [line for line in said.splitlines() if line.endswith(": ...")]
    count = len(programs.files)
    assert named[0] == f"pushing {count} files, {programs.bytes / 1e6:.1f} MB, to this machine: ..."
    assert named[1] == f"checking what arrived in folder {tmp_path / 'device'}: ..." and len(named) == 2
    assert re.search(rf"this machine: \([0-9]+ s\) file 2 of {count + 1} \([^)]+\), [0-9.]+ of 3\.0 MB", said), said


def test_how_much_of_a_file_a_program_has_read_is_known_meanwhile(tmp_path):
    file, seen = tmp_path / "file", []
    file.write_bytes(bytes(1_000_000))

    def watch(sent_bytes):
        seen.append(sent_bytes)

    script = f"head -c 400000 >/dev/null; touch {tmp_path}/half; while [ ! -e {tmp_path}/on ]; do sleep 0.05; done"
    thread = threading.Thread(target=run_program, args=(["sh", "-c", script], 60, "here", file, watch))
    thread.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "half").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 400_000 <= seen[0]() < 1_000_000
    (tmp_path / "on").touch()
    thread.join()
    assert seen[0]() == 0, "nothing is asked of a file that is closed"
