"""What a device tells about itself over RPC: model, cores, governor, temperature, threads in force."""

from __future__ import annotations

import json
from contextlib import suppress

from tvmfbnet.rpc.session import Session


def device_facts(session: Session) -> dict[str, str]:
    """What the device tells about itself, ``threads`` being those in force; TVM's own server tells nothing else."""
    facts: dict[str, str] = {}
    with suppress(Exception):  # TVM raises several kinds for a function that is not there
        found = json.loads(str(session.remote.get_function("tvmfbnet.device.info")()))
        facts = {str(name): str(value) for name, value in found.items()}
    with suppress(Exception):
        facts["threads"] = str(int(session.remote.get_function("runtime.NumThreads")()))
    return facts
