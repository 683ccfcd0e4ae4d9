"""Children never outlive their parent: not after kill -9, not in the middle of work that holds Python's lock."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tvmfbnet.autotune.builder_pool import _LocalBuilders
from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.loopback import connect_device, local_tracker
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.worker import Stage, Worker
from tvmfbnet.targets.definition import load_target


def busy(folder):
    """Code that leaves a file in a folder, then holds Python's lock for ten minutes.

    So does TVM's RPC client that waits for a frozen device.
    """
    mark = f"__import__('tempfile').mkstemp(prefix='at-work-', dir={str(folder)!r})"
    return f"({mark}, __import__('ctypes').PyDLL(None).sleep(600))"


BUILDERS = """
import sys, time
from pathlib import Path
from tvmfbnet.autotune.builder_pool import _LocalBuilders
builders = _LocalBuilders(2, 600, Path(sys.argv[1]))
for _ in range(2):
    builders.submit(eval, sys.argv[2])
print("started", flush=True)
time.sleep(600)
"""

WORKER = """
import sys, threading
from tvmfbnet.rpc.worker import Stage, Worker

def busy(tell, give, code):
    return eval(code)

def work():
    Worker(120).call(busy, (sys.argv[2],), [Stage("run", 600)], print)

threading.Thread(target=work, daemon=True).start()
print("started", flush=True)
__import__("time").sleep(600)
"""


def children_at_work(parent, folder, count, others=frozenset()):
    """The children but ``others``, once as many are in the middle of code of :func:`busy`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(list(folder.glob("at-work-*"))) == count:
            time.sleep(0.2)  # from the file to the sleep
            return set(psutil.Process(parent).children()) - others
        time.sleep(0.05)
    raise AssertionError(f"{count} busy children were expected")


@pytest.mark.parametrize(("script", "count"), [(BUILDERS, 2), (WORKER, 1)])
def test_a_child_that_is_busy_ends_when_its_parent_is_killed(tmp_path, script, count):
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), busy(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert parent.stdout.readline() == b"started\n"
        children = children_at_work(parent.pid, tmp_path, count)
        assert len(children) == count
    finally:
        parent.kill()
        parent.wait()
    ended, alive = psutil.wait_procs(children, timeout=5)
    assert len(ended) == count and not alive


def giving(count):
    """A job that gives ``count`` parts."""

    def job(tell, give):
        for number in range(count):
            give(number)
        return "done", None

    return job


def test_parts_of_a_result_arrive_while_the_child_still_works():
    worker = Worker(120)
    try:
        parts = []
        answer = worker.call(giving(3), (), [Stage("run", 60)], lambda *_: None, parts.append)
        assert answer == ("done", None) and parts == [0, 1, 2]
    finally:
        worker.close()


def test_a_ctrl_c_in_the_terminal_reaches_the_parent_alone():
    worker = Worker(120)
    try:
        assert os.getpgid(worker.process.pid) != os.getpgrp()
        assert worker.call(giving(0), (), [Stage("run", 60)], lambda *_: None) == ("done", None)
    finally:
        worker.close()
    assert worker.process.returncode == -signal.SIGKILL


def own_children(before=frozenset()):
    """The processes that this one has started and that did not run before; other tests leave some running."""
    return {child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE} - before


def test_ended_builders_leave_neither_process_nor_pipe(tmp_path):
    pipes, others = psutil.Process().num_fds(), own_children()
    builders = _LocalBuilders(2, 600, tmp_path)
    futures = [builders.submit(eval, busy(tmp_path)) for _ in range(3)]
    assert len(children_at_work(os.getpid(), tmp_path, 2, others)) == 2
    builders.shutdown()
    assert psutil.Process().num_fds() <= pipes and not own_children(others)
    assert all(future.cancelled() or isinstance(future.exception(), ChildProcessError) for future in futures)


@pytest.mark.rpc
def test_a_stopped_tracker_leaves_neither_process_nor_pipe():
    pipes, others = psutil.Process().num_fds(), own_children()
    with local_tracker("phone"):
        assert psutil.Process().num_fds() > pipes
        (tracker,) = own_children(others)
        assert not [item.path for item in tracker.memory_maps() if "torch" in item.path], "loads what it never uses"
    assert psutil.Process().num_fds() <= pipes and not own_children(others)


@pytest.mark.rpc
def test_a_server_that_brings_its_tracker_ends_with_it_and_says_where_that_cannot_listen():
    others = own_children()
    with connect_device(load_target("host")) as endpoint:
        (server,) = own_children(others)
        (tracker,) = server.children()
        told = Service(["server", "--port", "0", "--tracker", endpoint.address, "--key", "k", "--with-tracker"])
        with pytest.raises(DeviceError, match=f"the server did not start: cannot listen on {endpoint.address}"):
            told.wait_until_ready()
    _, alive = psutil.wait_procs([tracker], timeout=10)  # the kernel kills it with its parent
    assert not alive or tracker.status() == psutil.STATUS_ZOMBIE
