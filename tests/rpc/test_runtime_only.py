"""Processes that only run or time compiled code have TVM's runtime without its compiler, and can import every job."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.targets.definition import load_target

PACKAGE = Path(__file__).resolve().parents[2] / "tvmfbnet"

SCRIPT = """
import importlib, json, os, sys
from tvmfbnet.rpc.runtime_only import load_device_runtimes, load_runtime
load_runtime()
load_device_runtimes()
for module in sys.argv[1:]:
    importlib.import_module(module)
import tvm_ffi
functions = ["rpc.ServerLoop", "tvm.contrib.random.random_fill_for_measure", "target.Target"]
there = {name: tvm_ffi.get_global_func(name, allow_missing=True) is not None for name in functions}
print(json.dumps([there, "tvm.relax" in sys.modules, "TVM_USE_RUNTIME_LIB" in os.environ]))
"""


def job_modules():
    """The modules with functions that take a session: a worker imports them."""
    modules = []
    for file in sorted(PACKAGE.rglob("*.py")):
        functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        notes = [ast.unparse(node.args.args[0].annotation or node) for node in functions if node.args.args]
        if "Session" in notes:
            modules.append(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
    return modules


def test_every_job_can_be_imported_without_the_compiler_and_the_next_process_is_free_to_load_it():
    modules = job_modules()
    assert {"tvmfbnet.rpc.session", "tvmfbnet.profiling.canary"} <= set(modules)
    command = [sys.executable, "-c", SCRIPT, *modules, "tvmfbnet.rpc.remote"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    there, has_relax, is_switched = json.loads(done.stdout)
    assert there == {
        "rpc.ServerLoop": True,
        "tvm.contrib.random.random_fill_for_measure": True,
        "target.Target": False,
    }
    assert not has_relax and not is_switched


@pytest.mark.rpc
def test_tracker_server_and_worker_do_not_load_the_compiler():
    before = set(psutil.Process().children(recursive=True))
    with connect_device(load_target("host")) as endpoint, RemoteWorker(endpoint, "cpu", 60) as worker:
        worker.start()
        started = set(psutil.Process().children(recursive=True)) - before
        assert len(started) == 3
        for process in started:
            libraries = {Path(region.path).name for region in process.memory_maps()}
            assert "libtvm_runtime.so" in libraries, process.cmdline()
            assert "libtvm_compiler.so" not in libraries, process.cmdline()
