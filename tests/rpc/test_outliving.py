"""Nothing outlives the command that started it, whatever ends that command, and whenever."""

import os
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.targets.definition import load_target

pytestmark = [pytest.mark.rpc, pytest.mark.slow]

ENDED_SECONDS = 2.0

# A command that starts what commands start here: trackers, a server of each kind, and a process that talks to them.
COMMAND = """
import sys, threading, time
from contextlib import ExitStack
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.rpc.worker import Stage, Worker

port, native = free_port(), sys.argv[1]
tracker = Service(["tracker", "--port", str(port)])
server = Service(["server", "--port", "0", "--tracker", f"127.0.0.1:{free_port()}", "--with-tracker", "--key", "k"])
program = [native, "--tracker", f"127.0.0.1:{port}", "--key", "n", "--port", "0", "--until-stdin-closes"]
device = Service(["server"], program=program)
print("started", flush=True)
for service in (tracker, server, device):
    service.wait_until_ready()
worker = Worker(120)
print("ready", flush=True)

def busy(tell, give):
    import ctypes
    ctypes.PyDLL(None).sleep(60)  # holds Python's lock, as TVM's calls to a device do

import cloudpickle
cloudpickle.register_pickle_by_value(sys.modules["__main__"])
threading.Thread(target=worker.call, args=(busy, (), [Stage("run", 60)], None), daemon=True).start()
time.sleep(1)
print("busy", flush=True)
time.sleep(600)
"""


def family(mark):
    """Every process that has the mark in its environment: the command and all that came of it."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TVMFBNET_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


def assert_all_ended(mark):
    deadline = time.monotonic() + ENDED_SECONDS
    while left := family(mark):
        if time.monotonic() > deadline:
            told = []
            for process in left:
                try:
                    told.append(" ".join(process.cmdline()[-4:]))
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            pytest.fail(f"outlived the command by {ENDED_SECONDS} s: {told}")
        time.sleep(0.05)


@pytest.fixture
def command():
    """Starts a command under a mark of its own: (process, mark)."""
    mark = uuid.uuid4().hex
    native = str(build_programs(load_target("host")).server)
    environment = {**os.environ, "TVMFBNET_TEST_MARK": mark}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, native],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        yield process, mark
    finally:
        process.kill()
        process.wait()
        for left in family(mark):
            left.kill()


# Seconds after the children were started: while their interpreters start, while they load TVM, and later.
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.08, 0.2, 0.5, 1.2, 3.0])
def test_a_kill_of_the_parent_while_its_children_start_ends_them_all(command, delay):
    process, mark = command
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.kill()
    process.wait()
    assert_all_ended(mark)


def test_a_kill_of_the_parent_ends_a_process_that_holds_pythons_lock(command):
    process, mark = command
    for line in ("started\n", "ready\n", "busy\n"):
        assert process.stdout.readline() == line
    assert len(family(mark)) >= 6
    process.kill()
    process.wait()
    assert_all_ended(mark)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_tracker_command_ends_whole_by_any_signal_to_it_alone(number):
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "tvmfbnet.cli.main", "tracker", "--port", str(free_port())],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TVMFBNET_TEST_MARK": mark},
        start_new_session=True,
    )
    try:
        assert "tracker at" in process.stderr.readline()
        process.send_signal(number)
        process.wait(timeout=ENDED_SECONDS + 1)
        assert_all_ended(mark)
        assert process.returncode == (-9 if number == signal.SIGKILL else 0)
    finally:
        process.kill()
        process.wait()


BUILDING = """
import sys
import time
from tvmfbnet.targets.definition import load_target, resolve
from tvmfbnet.autotune.builder_pool import BuilderPool
from tvmfbnet.machine import allowed_cores
from tvmfbnet.scratch import new_folder

workers = allowed_cores()  # one is stopped while a kernel is timed on one core
pool = BuilderPool(resolve(load_target("host")), workers, new_folder())
for started in [pool._pool.submit(time.sleep, 1) for _ in range(workers)]:
    started.result()
for _ in range(workers):
    pool._pool.submit(time.sleep, 60)
if "stopped" in sys.argv:
    way = pool.making_way()
    way.__enter__()
print("building", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_kill_of_the_parent_ends_a_builder_in_the_middle_of_a_long_build(state):
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDING, state], stdout=subprocess.PIPE, env={**os.environ, "TVMFBNET_TEST_MARK": mark}
    )
    try:
        assert process.stdout.readline() == b"building\n"
        time.sleep(0.5)
        others = [one for one in family(mark) if one.pid != process.pid]
        stopped = [one.status() for one in others].count(psutil.STATUS_STOPPED)
        assert others and stopped == (state == "stopped")
        process.kill()
        process.wait()
        assert_all_ended(mark)
    finally:
        process.kill()
        for left in family(mark):
            left.kill()
