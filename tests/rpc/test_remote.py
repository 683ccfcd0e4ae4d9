"""Nothing that talks to a device waits for ever, and every failure says what to look at."""

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cloudpickle
import psutil
import pytest

from tvmfbnet.compiler.library import linker
from tvmfbnet.errors import DeviceError
from tvmfbnet.profiling.canary import CANARY_SIZE, build_canary
from tvmfbnet.provisioning.loopback import connect_device, free_port, require_free_port
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.remote import RemoteError, RemoteWorker
from tvmfbnet.rpc.session import KernelJob, Repeats, time_kernels
from tvmfbnet.rpc.tracker import Endpoint, address_text, query_tracker, require_key
from tvmfbnet.targets.definition import load_target, resolve

# The worker process cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _sleep(session, seconds):
    time.sleep(seconds)


def _hold_the_lock(session, seconds):
    """What a call into TVM does that waits for a device: no other thread of Python's runs meanwhile."""
    ctypes.PyDLL(None).sleep(seconds)


def _stop(session, seconds):
    os.kill(os.getpid(), signal.SIGSTOP)


def _filled(session, jobs, repeats):
    """How many arguments are filled to time kernels."""
    fill, count = session.remote.get_function("tvm.contrib.random.random_fill_for_measure"), []

    class Remote:
        def __getattr__(self, name):
            return getattr(session.remote, name)

        def get_function(self, name):
            return lambda argument: (count.append(name), fill(argument))

    timings = time_kernels(replace(session, remote=Remote()), jobs, repeats)
    assert all(timing.best_ms for timing in timings)
    return len(count)


def _crash_here(session):
    os.abort()


def _crash_once(session, mark):
    if not Path(mark).exists():
        Path(mark).touch()
        os.abort()
    return "measured"


def _fail(session):
    raise ValueError("no such kernel")


def test_no_tracker_is_one_clear_error():
    with pytest.raises(DeviceError, match="no tracker at"):
        query_tracker("127.0.0.1", free_port())


@pytest.mark.rpc
def test_a_key_that_nobody_serves_is_an_error_and_a_taken_port_is_refused():
    port = free_port()
    tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(port)])
    try:
        tracker.wait_until_ready()
        with pytest.raises(DeviceError, match="no device serves key 'phone'"):
            require_key(Endpoint("127.0.0.1", port, "phone"), seconds=0.5)
        with pytest.raises(DeviceError, match="is in use"):
            require_free_port("127.0.0.1", port)
    finally:
        tracker.stop()


@pytest.fixture(scope="module")
def endpoint():
    with connect_device(load_target("host")) as endpoint:
        yield endpoint


@pytest.mark.rpc
@pytest.mark.slow
def test_a_remote_job_that_hangs_or_fails_is_an_error_and_the_device_goes_on(endpoint):
    with RemoteWorker(endpoint, "cpu", 60) as worker:
        served = [address_text(server) for server in query_tracker(endpoint.host, endpoint.port).servers]
        with pytest.raises(DeviceError, match="no such kernel"):
            worker.call(_fail, seconds=30)
        for job in (_sleep, _hold_the_lock, _stop):
            worker.start()
            started = time.monotonic()
            with pytest.raises(RemoteError, match="gave no answer within 3 s") as caught:
                worker.call(job, 60, seconds=3)
            assert 3 <= time.monotonic() - started < 20, "the job itself takes a minute"
            assert (caught.value.stage, caught.value.kind) == ("run", "no answer")
            assert caught.value.device in served
        with pytest.raises(RemoteError, match="the client crashed") as caught:
            worker.call(_crash_here, seconds=30)
        assert caught.value.kind == "broke"
        assert worker.call(_sleep, 0, seconds=60) is None


@pytest.mark.rpc
@pytest.mark.slow
def test_waiting_for_a_busy_device_has_an_end_and_the_device_is_not_blamed(endpoint):
    with RemoteWorker(endpoint, "cpu", 60) as first, RemoteWorker(endpoint, "cpu", 1) as second:
        second.start()
        first.start()
        busy = threading.Thread(target=first.call, args=(_sleep, 6), kwargs={"seconds": 20})
        busy.start()
        while not first.address:
            time.sleep(0.05)
        with pytest.raises(RemoteError, match="was not free within 2 s") as caught:
            second.call(_sleep, 0, seconds=1)
        assert (caught.value.stage, caught.value.device) == ("queue", "")
        busy.join()


@pytest.mark.rpc
@pytest.mark.slow
def test_a_measurement_that_its_device_failed_is_made_again_and_one_that_always_fails_is_an_error(endpoint, tmp_path):
    with RemoteWorker(endpoint, "cpu", 60) as worker:
        assert worker.persist(_crash_once, str(tmp_path / "crashed"), seconds=30) == "measured"
        with pytest.raises(RemoteError, match="no such kernel"):
            worker.persist(_fail, seconds=30)


@pytest.mark.rpc
def test_a_session_that_ends_in_the_last_kernel_of_a_round_is_a_fault_and_no_failing_kernel(endpoint, tmp_path):
    target, library = resolve(load_target("host")), tmp_path / "canary.so"
    build_canary(target, library, linker(target))
    arguments = tuple(("float32", shape) for shape in ((CANARY_SIZE,), (CANARY_SIZE, CANARY_SIZE), (CANARY_SIZE,)))
    job = KernelJob(str(library), arguments)
    with RemoteWorker(endpoint, "cpu", session_seconds=60) as worker:
        assert worker.call(time_kernels, [job], Repeats(1, 1), seconds=60)[0].best_ms
        # Kernels share their arguments of noise, unless they are run only once.
        filled = [worker.call(_filled, [job, job], Repeats(1, least_ms), seconds=60) for least_ms in (1, 0)]
        assert filled == [len(arguments), 2 * len(arguments)]
        alive = (child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE)
        (server,) = (child for child in alive if "server" in child.cmdline())
        # The kernel is timed for five seconds; its session, the youngest process there, dies meanwhile.
        killer = threading.Timer(2.0, lambda: max(server.children(True), key=psutil.Process.create_time).kill())
        killer.start()
        with pytest.raises(RemoteError) as raised:
            worker.call(time_kernels, [job], Repeats(1, 5000), seconds=60)
        killer.join()
        assert raised.value.stage == "run"
