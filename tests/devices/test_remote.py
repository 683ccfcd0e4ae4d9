"""Nothing that talks to a device waits for ever, and every failure says what to look at."""

import sys
import time

import cloudpickle
import pytest

from tvmfbnet.devices.local import Service, free_port, reach, require_free_port
from tvmfbnet.devices.remote import RemoteWorker
from tvmfbnet.devices.target import load_target
from tvmfbnet.devices.tracker import Endpoint, query_tracker, require_key
from tvmfbnet.errors import DeviceError

# The worker process cannot import this file, so its jobs travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _sleep(session, seconds):
    time.sleep(seconds)


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


@pytest.mark.rpc
@pytest.mark.slow
def test_a_remote_job_that_hangs_or_fails_is_an_error_and_the_device_goes_on():
    target = load_target("host")
    with reach(target) as endpoint, RemoteWorker(endpoint, "cpu", 60) as worker:
        with pytest.raises(DeviceError, match="no such kernel"):
            worker.call(_fail, seconds=30)
        with pytest.raises(DeviceError, match="gave no answer within 12 s"):
            worker.call(_sleep, 60, seconds=12)
        assert worker.call(_sleep, 0, seconds=60) is None
