"""Lowered parts are kept: a run that starts again lowers nothing, and takes nothing that is stale or damaged."""

import subprocess
import sys

import pytest
from tvm_ffi import structural_hash

from tvmfbnet.autotune.lowering_cache import LoweredParts
from tvmfbnet.targets.definition import load_target, resolve

AGAIN = """
import sys
from pathlib import Path
from tvmfbnet.targets.definition import load_target
from tvmfbnet.space.registry import load_space
from tvmfbnet.pipeline.tuning import plan_space
plan = plan_space(load_space(sys.argv[1]), load_target("host"), folder=Path(sys.argv[2]), keeps=False)
parts = list(plan.parts.values())
assert "torch" not in sys.modules, "lowered again"
print(len(parts), " ".join(task.kernel.key for task in plan.tasks))
"""


@pytest.fixture
def target():
    return resolve(load_target("host"))


def lowered(space, target, folder, **more):
    return LoweredParts([*space.fixed_parts(), *space.distinct_blocks()], target, folder / "lowered", **more)


def kernels(parts):
    return {
        part: [(kernel.key, kernel.name, kernel.count) for kernel in listed] for part, listed in parts.kernels.items()
    }


def test_the_next_run_finds_what_was_lowered_and_starts_without_torch(tiny_space, tiny_space_file, target, tmp_path):
    first = lowered(tiny_space, target, tmp_path)
    again = lowered(tiny_space, target, tmp_path)
    assert kernels(again) == kernels(first) and list(again) == list(first)
    assert all(structural_hash(again[part]) == structural_hash(first[part]) for part in first)
    command = [sys.executable, "-c", AGAIN, str(tiny_space_file), str(tmp_path)]
    count, *keys = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(count) == len(first)
    assert keys == list(dict.fromkeys(kernel.key for listed in first.kernels.values() for kernel in listed))


def test_damaged_and_foreign_files_are_not_used(tiny_space, target, tmp_path):
    first = lowered(tiny_space, target, tmp_path)
    files = sorted((tmp_path / "lowered").rglob("*.json"))
    assert len(files) == 2 * len(first)
    for number, path in enumerate(files):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number % 2 else b"[]" if "module" in path.name else b"[1]")
    again = lowered(tiny_space, target, tmp_path, writes=False)
    assert kernels(again) == kernels(first)
    assert all(structural_hash(again[part]) == structural_hash(first[part]) for part in first)
    swapped = next(path for path in files if "kernels" in path.name)
    swapped.write_text('[{"key": "0000000000000000", "name": "conv", "count": 1, "mod": "{}"}]')
    assert kernels(lowered(tiny_space, target, tmp_path, writes=False)) == kernels(first)


def test_what_another_compiler_lowered_is_dropped_and_a_reader_drops_nothing(tiny_space, target, tmp_path):
    names = ("0123456789abcdef", "0123456789abcdef-float32", "0123456789abcdef-int8")
    for name in names:
        (tmp_path / "lowered" / name).mkdir(parents=True)
    lowered(tiny_space, target, tmp_path, writes=False)
    assert {path.name for path in (tmp_path / "lowered").iterdir()} == set(names)
    lowered(tiny_space, target, tmp_path)
    left = {path.name for path in (tmp_path / "lowered").iterdir()}
    assert len(left) == 2 and left & set(names) == {names[2]}, "that of another dtype is not stale"
