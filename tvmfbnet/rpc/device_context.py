"""Builds the context of compilation and timing in this process: a resolved target and the facts of its device.

Only :func:`context_of` builds contexts. Compiling and reading ask no device, yet a target that runs on this machine
still has a known model. Timing asks the device with :func:`ask_context`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tvm
import tvm_ffi

from tvmfbnet.latency.context import Context, reported
from tvmfbnet.latency.measurement import IN_NET, ROTATING
from tvmfbnet.progress import say, step
from tvmfbnet.rpc.device_facts import device_facts
from tvmfbnet.rpc.host_facts import host_fingerprint
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.targets.definition import ResolvedTarget, target_key


def protocol_of(target: ResolvedTarget) -> str:
    """The protocol that times a target's parts."""
    return IN_NET if target.on_cpu else ROTATING


def context_of(target: ResolvedTarget, facts: Mapping[str, Any] | None = None) -> Context:
    """The context that this process compiles for and times on.

    Args:
        target: the target.
        facts: reported by the device (:func:`tvmfbnet.rpc.device_facts.device_facts`); may be empty. None if no device
            was asked: then the context admits any device, except that a target that runs on this machine admits only
            this machine's model.
    """
    asked: dict[str, Any] = {}
    if facts is not None:
        asked = reported(facts)
    elif target.transport.kind == "local" and not target.transport.emulator and target.transport.server == "python":
        asked = {"device_model": reported(host_fingerprint())["device_model"]}
    return Context(
        target=target.name,
        target_key=target_key(target),
        tvm_version=tvm.__version__,
        ffi_version=tvm_ffi.__version__.split(".post")[0],
        tvm_target=target.tvm_json(),
        threads=target.threads,
        dtype=target.dtype,
        layout=target.layout,
        protocol=protocol_of(target),
        **asked,
    )


def ask_context(target: ResolvedTarget, endpoint: Endpoint) -> tuple[Context, Endpoint]:
    """The context of timings at an endpoint, and the endpoint restricted to this device model.

    Raises:
        DeviceError: the device did not answer, or its threads or cores differ from the target's.
    """
    with step("asking the device what it is"), worker_for(target, endpoint) as worker:
        facts = worker.persist(device_facts, seconds=target.timeouts.connect + target.timeouts.session)
    context = context_of(target, facts)
    if not context.device_model:
        say(
            f"note: the device server of {target.name} does not report its model (TVM's plain server?): "
            "its measurements are stored under an unknown device"
        )
    return context, replace(endpoint, model=context.device_model or "")
