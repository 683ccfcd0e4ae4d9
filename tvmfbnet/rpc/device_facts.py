"""Facts that a device reports over RPC: model, cores, governor, temperature, threads in use."""

from __future__ import annotations

import json
from contextlib import suppress

from tvmfbnet.rpc.session import Session


def device_facts(session: Session) -> dict[str, str]:
    """The device's facts; ``threads`` are those in use, and all that TVM's own server reports.

    Raises:
        Exception: of TVM, when the device answers nothing at all: the session is broken, which is no fact about it.
    """
    facts: dict[str, str] = {}
    with suppress(Exception):  # TVM raises several kinds for a function that is not there
        reported = json.loads(str(session.remote.get_function("tvmfbnet.device.info")()))
        facts = {str(name): str(value) for name, value in reported.items()}
    try:
        facts["threads"] = str(int(session.remote.get_function("runtime.NumThreads")()))
    except Exception:  # of several kinds, too; a device that told the other facts may lack this one function
        if not facts:
            raise
    return facts


def device_exists(session: Session) -> bool:
    """Whether the remote runtime has the device."""
    return bool(session.device.exist)


def opencl_extensions(session: Session) -> frozenset[str]:
    """The extensions of an OpenCL device's driver; empty where its server, such as TVM's own, does not tell."""
    with suppress(Exception):  # as above
        function = session.remote.get_function("tvmfbnet.opencl.extensions")
        return frozenset(str(function(int(session.device.index))).split())
    return frozenset()
