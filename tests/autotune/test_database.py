"""The tuning database promises: damage costs what it hits alone, readers write nothing, contexts never mix."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.database import TuningDatabase, existing_database, open_database
from tvmfbnet.autotune.database_folders import folder_to_read, folder_to_write
from tvmfbnet.compiler.lowering import Kernel, kernel_key
from tvmfbnet.errors import LatencyError, StorageError
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, Measurement, summarise
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.space.space import NetPart
from tvmfbnet.targets.definition import load_target, resolve

TARGET = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64"})
CONTEXT = Context(
    "board", "k", "0.27.0", "0.1", '{"kind":"llvm","mcpu":"x86-64"}', 1, "float32", "NHWC", IN_NET, "Pi", 1, "0-3"
)
WORKLOADS, RECORDS, KEYS = "database_workload.json", "database_tuning_record.json", "database_keys.jsonl"


def kernel(size: int) -> Kernel:
    """A kernel that adds up two vectors."""
    a, b = te.placeholder((size,), name="a"), te.placeholder((size,), name="b")
    mod = tvm.IRModule({"main": te.create_prim_func([a, b, te.compute((size,), lambda i: a[i] + b[i], name="c")])})
    return Kernel(kernel_key(mod), f"add{size}", 1, mod)


KERNELS = [kernel(8 * size) for size in range(1, 6)]


def candidate(entry: Kernel, factor: int) -> ScheduleCandidate:
    schedule = Schedule(entry.mod)
    (loop,) = schedule.get_loops(schedule.get_sblock("c"))
    schedule.split(loop, [None, factor])
    return ScheduleCandidate.of(schedule)


def fill(folder: Path, kernels: list[Kernel]) -> None:
    database = TuningDatabase(folder, repair=True)
    for entry in kernels:
        for factor, ms in ((4, 2.0), (8, 1.0)):
            database.add(candidate(entry, factor), entry, TARGET, ms * len(entry.name))
    database.flush()


def known(folder: Path) -> list[str]:
    """Names of the kernels that the compiler finds a schedule of; each must be its own."""
    database = TuningDatabase(folder)
    names = []
    for entry in KERNELS:
        record = database.records.query_tuning_record(entry.mod, TARGET, entry.name)
        if record is not None:
            times = [pytest.approx(factor * len(entry.name) / 1e3) for factor in (1, 2)]
            assert float(record.run_secs[0]) in times
            names.append(entry.name)
    return names


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


NAMES = [entry.name for entry in KERNELS]


def damage_line(path: Path, number: int, *lines: bytes) -> None:
    """Puts other lines in the place of one (from 1)."""
    content = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in [*content[: number - 1], *lines, *content[number:]]))


@pytest.mark.parametrize(
    "lines", [[b"<<<<<<< HEAD"], [], [b"<<<<<<< HEAD", b"=======", b">>>>>>> other"], [b"\0\xff"], [b'["1", "AAAA"]']]
)
def test_a_damaged_workload_in_the_middle_costs_its_kernel_alone_and_no_reader_writes(tmp_path, capsys, lines):
    fill(tmp_path, KERNELS)
    damage_line(tmp_path / WORKLOADS, 2, *lines)
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert known(tmp_path) == [NAMES[0], *NAMES[2:]]
    assert "2 schedule(s)" in capsys.readouterr().err
    assert snapshot(tmp_path) == before
    records = (tmp_path / RECORDS).read_bytes()
    fill(tmp_path, [KERNELS[1]])
    assert (tmp_path / RECORDS).read_bytes().startswith(records), "a writer repairs nothing in the middle either"
    assert known(tmp_path) == NAMES, "what was lost can be tuned again"


def test_a_damaged_record_in_the_middle_is_lost_alone(tmp_path, capsys):
    fill(tmp_path, KERNELS)
    text = (tmp_path / RECORDS).read_text().splitlines()
    damage_line(tmp_path / RECORDS, 3, text[2].replace("0.01", "0.02", 1).encode())
    damage_line(tmp_path / RECORDS, 4)
    assert known(tmp_path) == [NAMES[0], *NAMES[2:]], "both of its schedules are gone"
    assert f"{RECORDS} line 3" in capsys.readouterr().err


def test_of_a_kernel_whose_best_schedule_is_damaged_the_next_one_is_used(tmp_path):
    fill(tmp_path, KERNELS[:1])
    best = (tmp_path / RECORDS).read_bytes().splitlines()[1]
    damage_line(tmp_path / RECORDS, 2, best.replace(b"0.004", b"0.001"))
    record = TuningDatabase(tmp_path).records.query_tuning_record(KERNELS[0].mod, TARGET, "add8")
    assert float(record.run_secs[0]) == pytest.approx(0.008)


def test_files_of_any_garbage_never_end_in_a_traceback_or_a_wrong_schedule(tmp_path):
    fill(tmp_path / "whole", KERNELS[:3])
    generator = random.Random(0)
    for round_ in range(40):
        folder = tmp_path / str(round_)
        folder.mkdir()
        for name in (WORKLOADS, RECORDS, KEYS):
            content = bytearray((tmp_path / "whole" / name).read_bytes())
            for _ in range(generator.choice([0, 1, 5])):
                place = generator.randrange(len(content))
                content[place : place + generator.choice([1, 1, 200])] = generator.randbytes(
                    generator.choice([0, 1, 9])
                )
            (folder / name).write_bytes(bytes(content))
        assert set(known(folder)) <= set(NAMES)
        fill(folder, KERNELS[:1])
        assert NAMES[0] in known(folder)


def test_a_workload_torn_by_a_power_cut_is_not_replaced_by_another(tmp_path):
    fill(tmp_path, KERNELS[:2])
    path = tmp_path / WORKLOADS
    path.write_bytes(path.read_bytes()[:-20])
    fill(tmp_path, KERNELS[2:])
    assert known(tmp_path) == [NAMES[0], *NAMES[2:]]
    numbers = [json.loads(line)[0] for line in (tmp_path / RECORDS).read_text().splitlines()]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


OTHERS = [
    {"tvm_version": "0.28.0"},
    {"ffi_version": "0.2"},
    {"target_key": "l", "tvm_target": '{"kind":"llvm","mcpu":"znver9"}'},
    {"device_model": "Pi 9"},
    {"device_cores": "0-1"},
    {"dtype": "float16"},
]


@pytest.mark.parametrize("change", OTHERS)
def test_schedules_of_one_context_serve_no_other(tmp_path, capsys, change):
    folder, other = tmp_path / "board", replace(CONTEXT, **change)
    fill(folder_to_write(folder, CONTEXT), KERNELS[:1])
    assert folder_to_write(folder, CONTEXT) == folder_to_read(folder, CONTEXT) == folder / "database"
    with pytest.raises(StorageError, match="tvmfbnet tune --target board") as caught:
        folder_to_read(folder, other)
    assert "\n" not in str(caught.value)
    begun = folder_to_write(folder, other)
    assert begun == folder / f"database-{other.key}" and "starts" in capsys.readouterr().err
    fill(begun, KERNELS[1:2])
    assert folder_to_read(folder, other) == folder_to_write(folder, other) == begun
    assert known(folder / "database") == NAMES[:1]


def written(context: Context) -> Measurement:
    part = NetPart("block", "k3_e1", 8, 8, 8, 8, 1)
    return Measurement.model_validate({**context.to_dict(), **summarise([1.0]), "part": part, "trials": 8})


def test_a_reader_that_asks_no_device_takes_the_model_measured_last_and_can_choose(tmp_path, capsys):
    folder, second = tmp_path / "board", replace(CONTEXT, device_model="Pi 9")
    for context in (second, CONTEXT):
        fill(folder_to_write(folder, context), KERNELS[:1])
        Journal(folder / "latency.jsonl").append(written(context))
    capsys.readouterr()
    wanted = CONTEXT.compile_side
    assert folder_to_read(folder, wanted) == folder_to_write(folder, CONTEXT)
    assert "Pi was measured last" in capsys.readouterr().err
    assert folder_to_read(folder, wanted, "Pi 9") == folder_to_write(folder, second)
    with pytest.raises(LatencyError, match="'Pi 7'; there are: "):
        folder_to_read(folder, wanted, "Pi 7")


def test_a_database_of_an_older_version_is_adopted_only_where_the_measurements_prove_its_context(tmp_path, capsys):
    def legacy(name: str) -> Path:
        folder = tmp_path / name
        fill(folder / "database", KERNELS[:2])
        (folder / "database" / KEYS).unlink()
        return folder

    proven, unproven, foreign = legacy("board"), legacy("b"), legacy("c")
    Journal(proven / "latency.jsonl").append(written(CONTEXT))
    Journal(foreign / "latency.jsonl").append(written(CONTEXT))
    Journal(foreign / "latency.jsonl").append(written(replace(CONTEXT, tvm_version="0.26")))
    before = snapshot(proven)
    assert folder_to_read(proven, CONTEXT.compile_side) == proven / "database"
    assert known(proven / "database") == NAMES[:2]
    assert snapshot(proven) == before
    for folder in (unproven, foreign):
        with pytest.raises(StorageError, match="unknown TVM and device"):
            folder_to_read(folder, CONTEXT.compile_side)
        assert folder_to_write(folder, CONTEXT) == folder / f"database-{CONTEXT.key}"
    assert folder_to_write(proven, CONTEXT) == proven / "database"
    fill(proven / "database", KERNELS[2:])
    assert known(proven / "database") == NAMES
    damage_line(proven / "database" / WORKLOADS, 1)
    assert known(proven / "database") == NAMES[1:], "from now on keys say whose a schedule is"


def test_logs_copied_from_another_cpu_are_refused_by_readers_and_kept_apart_by_writers(tmp_path, monkeypatch):
    host = resolve(load_target("host"))
    here = context_of(host, {"model": context_of(host).device_model, "threads": "1", "allowed_cores": "0"})
    there = replace(here, device_model="Another CPU of the same make")
    fill(open_database(there, tmp_path).folder, KERNELS[:1])
    with pytest.raises(StorageError, match="Another CPU of the same make instead of"):
        existing_database(host, tmp_path)
    fill(open_database(here, tmp_path).folder, KERNELS[:2])
    stored = existing_database(host, tmp_path)
    assert stored is not None and [stored.holds(one) for one in KERNELS[:3]] == [True, True, False]
    assert existing_database(host, tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", '{"schema_version": 1, "context": {}}', "\0"])
def test_a_damaged_context_file_is_of_nobody(tmp_path, text):
    folder = tmp_path / "board"
    fill(folder_to_write(folder, CONTEXT), KERNELS[:1])
    (folder / "database" / "context.json").write_text(text)
    with pytest.raises(StorageError, match=r"no valid context\.json"):
        folder_to_read(folder, CONTEXT)
    assert folder_to_write(folder, CONTEXT) != folder / "database"
