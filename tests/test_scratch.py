"""Temporary folders name their owner; those of the dead go at the next start, those of the living never."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tvmfbnet.scratch import PREFIX, scratch_folder, started, sweep

HOLD = """
import sys, time
from pathlib import Path
from tvmfbnet.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "library.so").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


def holder(parent):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(parent)], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_leaves_a_folder_and_the_next_start_removes_it(tmp_path):
    (killed, dead), (alive, living) = holder(tmp_path), holder(tmp_path)
    try:
        killed.kill()
        killed.wait()
        assert dead.is_dir()
        with scratch_folder(tmp_path) as own:
            assert not dead.exists()
            assert (living / "library.so").exists()
            assert own.is_dir()
        assert not own.exists()
    finally:
        alive.kill()
        alive.wait()


def test_a_process_id_that_was_given_out_again_does_not_save_a_folder(tmp_path):
    with scratch_folder(tmp_path) as own:
        home, pid, when = own.name.removeprefix(PREFIX).split("-")[:3]
    assert int(when) == started(os.getpid())
    earlier = tmp_path / f"{PREFIX}{home}-{pid}-{int(when) - 1}-abc"
    earlier.mkdir()
    assert sweep(tmp_path) == [earlier]


def test_folders_of_others_links_and_unknown_names_are_left_alone(tmp_path):
    with scratch_folder(tmp_path) as own:
        home = own.name.removeprefix(PREFIX).split("-")[0]
    target = tmp_path / "precious"
    target.mkdir()
    (tmp_path / f"{PREFIX}{home}-999999999-1-abc").symlink_to(target)
    elsewhere = f"{PREFIX}{'0' * 8 if home != '0' * 8 else '1' * 8}-999999999-1-abc"
    for name in (f"{PREFIX}build-xyz", elsewhere, "tmp123"):
        (tmp_path / name).mkdir()
    before = sorted(tmp_path.iterdir())
    assert sweep(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == before


def test_the_start_of_a_process_is_no_time_of_a_clock_that_can_be_set():
    first = started(os.getpid())
    time.sleep(0.02)
    assert first == started(os.getpid()) is not None
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert started(ended.pid) is None
