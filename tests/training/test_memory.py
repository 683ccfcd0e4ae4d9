"""Memory that one step frees is there for the next; memory that runs out is told in one line with advice."""

import subprocess
import sys

import pytest
import torch

from tvmfbnet.errors import DataError, OutOfMemoryError, StorageError
from tvmfbnet.training.memory import memory_advice

SCRIPT = """
import resource, sys, torch
from tvmfbnet.training.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("no glibc")
    raise SystemExit
def step():
    tensors = [torch.ones(1 << 24) for _ in range(3)]
step()
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how):
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    if "no glibc" in done.stdout:
        pytest.skip("this system's C library is not glibc")
    return int(done.stdout)


def test_freed_memory_is_used_again_without_new_pages():
    assert new_pages("keep") < 0.05 * new_pages("return")


def python_asks():
    bytearray(2**60)


def torch_asks():
    torch.empty(2**46)


def cuda_says():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB")


def a_library_of_cuda_says():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def cpp_says():
    raise RuntimeError("std::bad_alloc")


def the_system_says():
    raise OSError(12, "Cannot allocate memory")


def wrapped():
    try:
        python_asks()
    except MemoryError as error:
        raise StorageError("cannot read x.ckpt") from error


@pytest.mark.parametrize(
    "ask", [python_asks, torch_asks, cuda_says, a_library_of_cuda_says, cpp_says, the_system_says, wrapped]
)
def test_an_allocation_that_fails_is_one_line_with_advice(ask):
    with pytest.raises(OutOfMemoryError, match=r"^the search ran out of memory.*: use less$") as caught:  # noqa: SIM117
        with memory_advice("the finalists", "never seen"), memory_advice("the search", "use less"):
            ask()
    assert "\n" not in str(caught.value)


def test_other_failures_are_left_as_they_are():
    for error in (DataError("no images"), RuntimeError("shapes do not match"), OSError(2, "No such file")):
        with pytest.raises(type(error)) as caught, memory_advice("the search", "use less"):
            raise error
        assert caught.value is error


# A space whose first layers need far more memory at once than is left.
WIDE_SPACE = """
input: {channels: 1, height: 224, width: 224}
classes: 10
stem: {channels: 64, stride: 1}
stages: [{channels: 64, layers: 2}]
blocks: [k3_e6, k3_e3]
last_channels: 8
"""

LIMITED = """
import re, resource, sys
import torch, timm.scheduler, timm.utils, tvmfbnet.search.search, tvmfbnet.training.train
from pathlib import Path
from tvmfbnet.cli.main import main
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20), used + (600 << 20)))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("command", ["search", "train"])
def test_a_batch_larger_than_memory_ends_with_exit_code_2_and_what_needs_less(command, tiny_data, tmp_path):
    from tvmfbnet.latency.cells import Cell
    from tvmfbnet.latency.table import LatencyTable
    from tvmfbnet.latency.table_io import write_table
    from tvmfbnet.space.registry import load_space

    (tmp_path / "wide.yaml").write_text(WIDE_SPACE)
    parts = load_space(str(tmp_path / "wide.yaml")).distinct_parts()
    write_table(LatencyTable({part: Cell(0.1) for part in parts}, 0.0), tmp_path / "table.csv")
    arguments = ["--space", tmp_path / "wide.yaml", "--data", tiny_data, "--batch-size", 90, "--device", "cpu"]
    arguments += ["--threads", 1, "--out", tmp_path / "out", "--epochs", 4]
    extra = ["k3_e6,k3_e6"] if command == "train" else ["--latency-table", tmp_path / "table.csv"]
    extra += ["--warmup-epochs", 1]
    line = [sys.executable, "-c", LIMITED, command, *map(str, [*extra, *arguments])]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: the {'training' if command == 'train' else command} ran out of memory")
    assert "smaller batch_size (it is 90)" in last and ("save_memory" in last) == (command == "search")
