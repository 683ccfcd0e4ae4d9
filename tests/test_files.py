import os
import subprocess
import sys
import time

import pytest

from tvmfbnet.errors import StorageError
from tvmfbnet.files import (
    Stored,
    clear_leftovers,
    digest,
    folder_lock,
    make_folder,
    read_json,
    read_model,
    read_text,
    write_atomically,
    write_json,
    write_text,
)


class Lap(Stored):
    name: str
    seconds: float


def test_what_was_written_is_read_back(tmp_path):
    write_json(tmp_path / "laps.json", [{"name": "a", "seconds": 1}, {"name": "b", "seconds": 0.5}])
    assert read_model(tmp_path / "laps.json", list[Lap]) == [Lap(name="a", seconds=1), Lap(name="b", seconds=0.5)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b'{"name": "a"}', "seconds: Field required"),
        (b'{"name": "a", "seconds": "1"}', "seconds: Input should be a valid number"),
        (b'{"name": "a", "seconds": true}', "seconds"),
        (b'{"name": "a", "seconds": 1, "hours": 2}', "hours: unknown name"),
        (b'{"name": "a", "seconds": NaN}', "not valid JSON"),
        (b'{"name": "a", "seconds": 1e999}', "finite"),
        (b'{"name": "a", "seconds": 1, "seconds": 2}', "'seconds' is given twice"),
        (b'{"name": "\xff", "seconds": 1}', "not UTF-8 text (byte 0xff in line 1)"),
        ('{"name": "a", "seconds": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"name": "\\ud800", "seconds": 1}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"9" * 10_000, "laps.json"),
        (b"[1, 2]", "should be an object"),
    ],
)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path, content, said):
    path = tmp_path / "laps.json"
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        read_model(path, Lap)
    message = str(caught.value)
    assert said in message
    assert str(path) in message and "\n" not in message and len(message) < 1000


def test_a_digest_follows_the_content_and_not_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcat")
    assert read_text(tmp_path / "a.txt") == "cat"


def test_a_huge_file_is_refused_without_being_read_whole(tmp_path):
    started = time.monotonic()
    with pytest.raises(StorageError, match="/dev/zero is larger than 8 MiB"):
        read_text(type(tmp_path)("/dev/zero"))
    assert time.monotonic() - started < 5


def test_new_files_get_the_mode_that_the_umask_asks_for_and_old_ones_keep_theirs(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "new.json", {})
        (tmp_path / "private.json").touch(mode=0o600)
        write_json(tmp_path / "private.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed_and_a_device_is_written_to_never_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "x"
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE) as reader:
        write_text(fifo, "through")
        assert reader.communicate()[0] == b"through"
    assert fifo.is_fifo()
    with pytest.raises(StorageError, match="No space left"):
        write_text(type(tmp_path)("/dev/full"), "x")
    assert type(tmp_path)("/dev/full").is_char_device()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old")
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(tmp_path / "a", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("name", ["n" * 300, "dangling", "cycle", "file", "file/below"])
def test_a_folder_that_cannot_be_is_one_line(tmp_path, name):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cycle").symlink_to(tmp_path / "cycle")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot create folder"):
        make_folder(tmp_path / name)


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_json(make_folder(tmp_path / "link") / "a.json", 1)
    assert read_json(tmp_path / "real" / "a.json") == 1


_HOLD = """
import sys, time
from pathlib import Path
from tvmfbnet.files import folder_lock
with folder_lock(Path(sys.argv[1]), "a run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_belongs_to_one_process_until_that_dies(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match="a run is already active in"), folder_lock(tmp_path, "a run"):
            pass
        holder.kill()
    with folder_lock(tmp_path, "a run"):
        pass


WRITING = """
import sys, time
from pathlib import Path
from tvmfbnet.files import write_atomically
def write(temporary):
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(120)
write_atomically(Path(sys.argv[1]), write)
"""


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_stays(tmp_path):
    mine, other = tmp_path / "train.ckpt", tmp_path / "search.ckpt"
    (tmp_path / ".train.ckpt.abcd1234.tmp").write_text("of an earlier version")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True)
        for path in (mine, mine, other)
    ]
    try:
        assert all(writer.stdout.readline() == "writing\n" for writer in writers)
        for writer in (writers[0], writers[2]):
            writer.kill()
            writer.wait()
        assert len(list(tmp_path.glob(".train.ckpt.*.tmp"))) == 3
        clear_leftovers(mine)
        left = [path.name for path in tmp_path.iterdir()]
        assert len(left) == 2 and {name.split(".")[1] for name in left} == {"train", "search"}
        assert writers[1].poll() is None
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    clear_leftovers(mine, other)
    assert not list(tmp_path.iterdir())
