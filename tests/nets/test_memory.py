"""Memory that one step frees is there for the next."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from tvmfbnet.nets.memory import keep_freed_memory
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
