"""What the journal promises: nothing measured is ever lost, whoever writes and whatever breaks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from latency_samples import measurement
from pydantic import ValidationError

from tvmfbnet.errors import StorageError
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import Measurement
from tvmfbnet.targets.definition import load_target, target_key

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from latency_samples import measurement
from tvmfbnet.latency.journal import Journal

journal = Journal(Path(sys.argv[2]))
for number in range(int(sys.argv[4])):
    journal.append(measurement(latency_ms=number + 1, fingerprint={"writer": sys.argv[3], "pad": "x" * 3000}))
    print(number, flush=True)
"""


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(path), name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "logs" / "host" / "latency.jsonl")


def test_what_was_appended_is_read_back_equal_and_in_order(journal: Journal) -> None:
    assert journal.read() == []
    written = [measurement(latency_ms=number) for number in (3.0, 1.0, 2.0)]
    for item in written:
        journal.append(item)
    assert journal.read() == written
    lines = journal.path.read_text().splitlines()
    assert [json.loads(line)["latency_ms"] for line in lines] == [3.0, 1.0, 2.0]
    assert json.loads(lines[0])["schema_version"] == 4


def test_several_writer_processes_lose_and_mix_nothing(journal: Journal) -> None:
    count, names = 25, ("a", "b", "c", "d")
    writers = [start_writer(journal.path, name, count) for name in names]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    written = [(str(item.fingerprint["writer"]), item.latency_ms) for item in journal.read()]
    assert len(written) == count * len(names)
    for name in names:  # each writer's lines are all there, in its order
        assert [latency for writer, latency in written if writer == name] == [float(n + 1) for n in range(count)]


def test_a_killed_writer_loses_nothing_it_had_reported(journal: Journal) -> None:
    writer = start_writer(journal.path, "a", 100_000)
    assert writer.stdout is not None
    reported = [writer.stdout.readline() for _ in range(5)]
    time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    reported += writer.communicate(timeout=60)[0].splitlines()
    records = journal.read()
    assert len(records) >= len(reported)
    assert [item.latency_ms for item in records] == [float(number + 1) for number in range(len(records))]
    journal.append(measurement())
    assert len(journal.read()) == len(records) + 1


def test_a_torn_last_line_is_passed_over_by_readers_and_cut_off_by_the_next_writer(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.append(measurement(latency_ms=1))
    whole = journal.path.read_bytes()
    torn = whole + whole[: len(whole) // 2]
    journal.path.write_bytes(torn)
    assert [item.latency_ms for item in journal.read()] == [1.0]
    assert "line 2" in capsys.readouterr().err
    assert journal.path.read_bytes() == torn, "a reader repairs nothing"
    journal.append(measurement(latency_ms=2))
    assert "torn line" in capsys.readouterr().err
    assert journal.path.read_bytes().startswith(whole)
    assert [item.latency_ms for item in journal.read()] == [1.0, 2.0]
    assert capsys.readouterr().err == ""


def test_appending_after_a_torn_line_does_not_merge_with_it(journal: Journal) -> None:
    journal.append(measurement(latency_ms=1))
    with journal.path.open("ab") as stream:
        stream.write(b"\0" * 100_000)  # what a power cut leaves on some file systems, longer than one read
    journal.append(measurement(latency_ms=2))
    assert [item.latency_ms for item in journal.read()] == [1.0, 2.0]


def test_a_last_line_that_lacks_only_its_newline_is_kept(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.append(measurement(latency_ms=1))
    journal.path.write_bytes(journal.path.read_bytes().rstrip(b"\n"))
    journal.append(measurement(latency_ms=2))
    assert [item.latency_ms for item in journal.read()] == [1.0, 2.0]
    assert "warning" not in capsys.readouterr().err


WHOLE = measurement().model_dump_json().encode()


def with_field(field: bytes, value: bytes) -> bytes:
    """A line that is whole but for one figure."""
    changed = re.sub(rb'"%s":[^,}]+' % field, b'"%s":%s' % (field, value), WHOLE, count=1)
    assert changed != WHOLE
    return changed


@pytest.mark.parametrize(
    "bad",
    [
        b'{"half": ',
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"schema_version": 1, "target": "x"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        with_field(b"schema_version", b"1" + b"0" * 30),
        with_field(b"std_ms", b"1e200"),
        with_field(b"latency_ms", b"1e999"),
        with_field(b"latency_ms", b"NaN"),
        with_field(b"overhead_ms", b"-Infinity"),
        with_field(b"n", b"9" * 400),
        with_field(b"cin", b"9" * 400),
        with_field(b"height", b"0"),
        with_field(b"n", b"9" * 5000),
    ],
)
def test_a_corrupt_line_in_the_middle_is_skipped_and_named(
    journal: Journal, capsys: pytest.CaptureFixture[str], bad: bytes
) -> None:
    journal.append(measurement(latency_ms=1))
    with journal.path.open("ab") as stream:
        stream.write(bad + b"\n")
    journal.append(measurement(latency_ms=2))
    before = journal.path.read_bytes()
    assert [item.latency_ms for item in journal.read()] == [1.0, 2.0]
    assert "line 2" in capsys.readouterr().err
    assert journal.path.read_bytes() == before


def test_a_line_of_a_newer_version_is_refused_not_misread(journal: Journal) -> None:
    journal.append(measurement())
    newer = {**json.loads(journal.path.read_text()), "schema_version": 5}
    with journal.path.open("a") as stream:
        stream.write(json.dumps(newer) + "\n")
    with pytest.raises(StorageError, match="line 2 was written by a newer tvmfbnet"):
        journal.read()


def test_lines_of_the_first_version_are_read_beside_todays_and_stay_as_they_are(journal: Journal) -> None:
    journal.append(measurement(latency_ms=1))
    first = {**json.loads(journal.path.read_text()), "schema_version": 1}
    for later in ("protocol", "steady", "tries", "outliers", "canary_ratio", "pace"):
        del first[later]
    old = json.dumps(first) + "\n"
    journal.path.write_text(old)
    journal.append(measurement(latency_ms=2, protocol="rotating"))
    assert [(item.latency_ms, item.protocol, item.schema_version) for item in journal.read()] == [
        (1.0, "isolated", 4),
        (2.0, "rotating", 4),
    ]
    assert journal.path.read_text().startswith(old)


def version_3(**changes: object) -> str:
    """A line as version 3 wrote it, of a device that reported all about itself."""
    fields = json.loads(measurement(tvm_target='{"kind":"llvm","mcpu":"z"}').model_dump_json())
    for later in ("target_key", "ffi_version", "device_model", "device_threads", "device_cores", "space_key"):
        del fields[later]
    facts = {"model": "Some CPU", "threads": "2", "allowed_cores": "0,1", "ffi_version": "0.1.14"}
    return json.dumps({**fields, "schema_version": 3, "fingerprint": facts, **changes}) + "\n"


def test_a_line_of_the_third_version_counts_as_todays_context_only_where_its_device_proves_it(journal: Journal) -> None:
    target = load_target("host").model_copy(update={"tvm": {"kind": "llvm", "mcpu": "z"}, "threads": 2, "cores": ""})
    today = measurement(tvm_target=target.tvm_json(), target_key=target_key(target)).context
    lines = [
        version_3(),
        version_3(fingerprint={}),
        version_3(fingerprint={"model": "Some CPU", "ffi_version": "0.1.14"}),
        version_3(fingerprint={"model": "Other", "threads": "2", "allowed_cores": "0-1", "ffi_version": "0.1.14"}),
        version_3(threads=1),
        version_3(tvm_target="[[["),
        version_3(tvm_version="0.26.0"),
    ]
    journal.path.parent.mkdir(parents=True)
    journal.path.write_text("".join(lines))
    contexts = [item.context for item in journal.read()]
    assert [context == today for context in contexts] == [True] + [False] * 6
    assert [today.compile_side.admits(context) for context in contexts[:2]] == [True, False]


def test_a_million_bad_lines_cost_a_handful_of_warnings(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.append(measurement())
    journal.path.write_bytes(b"{}\n" * 100_000 + journal.path.read_bytes())
    started = time.monotonic()
    assert len(journal.read()) == 1
    assert time.monotonic() - started < 30
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6 and "99995 more lines" in said[-1]


def test_a_line_of_the_second_version_has_no_speed_factor_and_its_latency_stays(journal: Journal) -> None:
    journal.append(measurement(latency_ms=3))
    second = {**json.loads(journal.path.read_text()), "schema_version": 2}
    del second["pace"]
    journal.path.write_text(json.dumps(second) + "\n")
    (item,) = journal.read()
    assert (item.pace, item.at_table_speed_ms) == (None, 3.0)
    assert measurement(latency_ms=3, pace=1.5).at_table_speed_ms == 2.0


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from latency_samples import measurement
from tvmfbnet.errors import StorageError
from tvmfbnet.latency.journal import Journal

journal = Journal(Path(sys.argv[2]))
journal.append(measurement(latency_ms=1))
size = journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    journal.append(measurement(latency_ms=2))
except StorageError as error:
    print(error)
else:
    sys.exit("the second line should not have fitted")
assert journal.path.stat().st_size == size, "a part of the line was left behind"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(measurement(latency_ms=3))
"""


def test_a_file_that_cannot_grow_keeps_every_line_and_leaves_no_part(journal: Journal) -> None:
    arguments = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(journal.path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert str(journal.path) in done.stdout
    assert "File too large" in done.stdout
    assert [item.latency_ms for item in journal.read()] == [1.0, 3.0]


def test_a_full_disk_is_one_clear_line_and_tears_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        journal = Journal(disk / "latency.jsonl")
        appended = 0
        with pytest.raises(StorageError, match="No space left on device"):
            for number in range(1000):
                journal.append(measurement(latency_ms=number, fingerprint={"pad": "x" * 2500}))
                appended += 1
        assert appended > 3
        assert journal.path.read_bytes().endswith(b"}\n")
        assert [item.latency_ms for item in journal.read()] == [float(number) for number in range(appended)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot create folder") as caught:
        Journal(tmp_path / "host" / "latency.jsonl").append(measurement())
    assert "\n" not in str(caught.value)


@pytest.fixture
def read_only_folder(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A folder that not even root may write: bind-mounted read-only as root, by its mode bits otherwise."""
    folder = tmp_path / "frozen"
    folder.mkdir()
    Journal(folder / "latency.jsonl").append(measurement(latency_ms=4))
    if os.geteuid() != 0:
        folder.chmod(0o555)
        (folder / "latency.jsonl").chmod(0o444)
        yield folder
        folder.chmod(0o755)
        return
    bound = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode == 0
    if not bound:
        pytest.skip("as root a folder is only read-only by a mount, and mounting is not allowed here")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_folder_refuses_to_append_and_still_reads(read_only_folder: Path) -> None:
    journal = Journal(read_only_folder / "latency.jsonl")
    with pytest.raises(StorageError, match="cannot"):
        journal.append(measurement())
    assert [item.latency_ms for item in journal.read()] == [4.0]


def test_a_folder_in_place_of_the_journal_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "latency.jsonl").mkdir()
    with pytest.raises(StorageError, match="latency"):
        Journal(tmp_path / "latency.jsonl").read()
    with pytest.raises(StorageError, match="latency"):
        Journal(tmp_path / "latency.jsonl").append(measurement())


@pytest.mark.parametrize("impossible", [float("nan"), float("inf"), -1.0])
def test_an_impossible_latency_never_becomes_a_measurement(impossible: float) -> None:
    good = measurement().model_dump()
    assert Measurement.model_validate(good) == measurement(time=good["time"])
    with pytest.raises(ValidationError):
        Measurement.model_validate({**good, "latency_ms": impossible})
