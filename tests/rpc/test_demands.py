"""A device that is not as its target asks is noticed before anything is timed there, and both sides are named."""

from types import SimpleNamespace

import pytest

from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.loopback import local_tracker, start_server
from tvmfbnet.rpc.demands import Demands, UnfitDeviceError
from tvmfbnet.rpc.device_facts import device_facts
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.tracker import require_key
from tvmfbnet.targets.definition import load_target, resolve

FACTS = {"threads": "4", "allowed_cores": "4-7", "model": "Pixel 3"}


@pytest.mark.parametrize(
    ("demands", "both"),
    [
        (Demands(threads=2), ("4 thread", "asks for 2")),
        (Demands(threads=4, cores="0-3"), ("4-7", "0-3")),
        (Demands(threads=4, cores="4-7", model="Pixel 6"), ("Pixel 3", "Pixel 6")),
    ],
)
def test_what_a_device_reports_is_compared_with_what_the_target_asks(demands, both):
    with pytest.raises(UnfitDeviceError) as caught:
        demands.check(FACTS, "phone")
    assert all(side in str(caught.value) for side in ("phone", *both)) and "\n" not in str(caught.value)


def test_what_fits_or_is_not_reported_or_not_asked_for_is_let_pass():
    Demands(threads=4, cores="4,5,6,7", model="Pixel 3").check(FACTS, "phone")
    Demands().check(FACTS, "phone")
    Demands(threads=9, cores="0-3").check({}, "phone")
    with pytest.raises(UnfitDeviceError):
        Demands(cores="0-3").check({"allowed_cores": "many"}, "phone")


def test_a_driver_without_the_extension_of_a_dtype_is_refused_in_one_line_where_it_tells():
    half = Demands(dtype="float16", opencl_extension="cl_khr_fp16")
    with pytest.raises(UnfitDeviceError, match=r"OpenCL driver of phone has no cl_khr_fp16.* float16; .* float32$"):
        half.check_extensions({"cl_khr_fp64", "cl_khr_icd"}, "phone")
    half.check_extensions({"cl_khr_fp16"}, "phone")
    half.check_extensions(frozenset(), "phone")
    Demands(dtype="float32").check_extensions({"cl_khr_fp64"}, "phone")


@pytest.mark.rpc
@pytest.mark.parametrize("server", ["python"])
def test_a_server_started_with_other_threads_than_the_target_says_is_refused_over_a_tracker(server):
    from tvmfbnet.rpc.device_context import ask_context, context_of

    asked = load_target("host")
    asked = resolve(asked.model_copy(update={"threads": 1}))
    started = asked.model_copy(update={"threads": 2})
    with local_tracker("board") as endpoint:
        service = start_server(started, endpoint)
        try:
            service.wait_until_ready()
            require_key(endpoint, 60)
            with worker_for(asked, endpoint) as worker, pytest.raises(DeviceError, match=r"runs with 2 .* asks for 1"):
                worker.persist(device_facts, seconds=60)
            context, bound = ask_context(started, endpoint)
        finally:
            service.stop()
    assert context.device_threads == 2 and context.device_cores and bound.model == context.device_model
    assert context_of(started).admits(context) and not context_of(asked).admits(context)


class _Remote:
    """Of a session: it answers ``replies`` and fails for every other function, as a broken one does for all."""

    def __init__(self, replies):
        self.replies = replies

    def get_function(self, name):
        if name not in self.replies:
            raise RuntimeError(f"no {name}")
        return lambda: self.replies[name]


def test_a_session_that_broke_is_a_fault_and_not_a_device_without_facts():
    def facts(**replies):
        return device_facts(SimpleNamespace(remote=_Remote({name.replace("_", "."): r for name, r in replies.items()})))

    assert facts(runtime_NumThreads=2) == {"threads": "2"}, "TVM's own server"
    assert facts(tvmfbnet_device_info='{"model": "m"}') == {"model": "m"}
    with pytest.raises(RuntimeError, match="NumThreads"):
        facts()
