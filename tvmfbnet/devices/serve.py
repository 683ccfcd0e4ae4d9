"""Runs a tracker or a device server as a child process of ours: ``python -m tvmfbnet.devices.serve tracker|server``.

The process ends when its standard input closes, so it never outlives the command that started it, not even after
``kill -9``. Both listen on loopback unless told otherwise: TVM RPC runs any code that it is sent.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time

from tvmfbnet.devices.fingerprint import host_fingerprint
from tvmfbnet.devices.runtime import installed_versions
from tvmfbnet.devices.tracker import port_is_open

READY = "ready"


def _serve_tracker(options: argparse.Namespace) -> object:
    # TVM's `Tracker` class would start this same state in one more interpreter; ours is a process of its own already.
    from tvm.rpc.tracker import PopenTrackerServerState

    return PopenTrackerServerState(options.host, port=options.port, port_end=options.port + 1, silent=True)


def plain_name(name: str) -> str:
    """The name of a file in a session's own folder; ValueError for one that could lead out of it."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name or len(name) > 200:
        raise ValueError(f"the device takes plain file names only, not {name[:80]!r}")
    return name


def _device_info() -> str:
    found = {**host_fingerprint(), "server": "TVM's Python server", "threads": os.environ.get("TVM_NUM_THREADS", "")}
    found["tvm_version"] = installed_versions()["apache-tvm"]
    found["ffi_version"] = installed_versions()["apache-tvm-ffi"].split(".post")[0]
    return json.dumps({key: str(value) for key, value in found.items()})


def _harden_server() -> None:
    """Replaces what TVM's server does with files: it takes ``../name``, and half a file when the disk is full."""
    import tvm_ffi
    from tvm.support import utils

    join = utils.TempDirectory.relpath
    utils.TempDirectory.relpath = lambda folder, name: join(folder, plain_name(name))

    def upload(name: str, data: bytes | bytearray) -> None:
        path = str(tvm_ffi.get_global_func("tvm.rpc.server.workpath")(name))
        with open(path, "wb") as stream:  # noqa: PTH123 - a str from TVM
            stream.write(data)

    tvm_ffi.register_global_func("tvm.rpc.server.upload", upload, override=True)
    tvm_ffi.register_global_func("tvmfbnet.device.info", _device_info, override=True)


def _set_cores(cores: str) -> None:
    """Runs this process and its sessions on some cores only, such as ``0,4-7``."""
    chosen = set()
    for part in cores.split(","):
        first, _, last = part.partition("-")
        chosen |= set(range(int(first), int(last or first) + 1))
    os.sched_setaffinity(0, chosen)
    os.environ["TVM_BIND_THREADS"] = "0"  # else TVM binds its threads to the fastest cores that it finds


def _serve_device(options: argparse.Namespace) -> object:
    from tvm.rpc.server import PopenRPCServerState

    _harden_server()
    if options.cores:
        _set_cores(options.cores)

    host, port = options.tracker.rsplit(":", 1)
    # TVM's server waits 5 s between its tries, so ask first whether the tracker is up.
    deadline = time.monotonic() + 30
    while not port_is_open(host, int(port)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return PopenRPCServerState(
        options.host,
        port=options.port,
        port_end=options.port + 200,
        key=options.key,
        tracker_addr=(host, int(port)),
        custom_addr=options.host,
        silent=True,
    )


def main() -> None:
    """Starts what was asked for, says ``ready`` on stdout, then waits for the end of stdin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("tracker", "server"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tracker", default="", help="host:port of the tracker that a server registers with")
    parser.add_argument("--key", default="", help="the key that a server registers under")
    parser.add_argument("--cores", default="", help="cores that a server runs on, such as 4-7")
    parser.add_argument("--foreground", action="store_true", help="run until interrupted, not until stdin closes")
    options = parser.parse_args()
    state = _serve_tracker(options) if options.what == "tracker" else _serve_device(options)  # holds its threads
    print(READY, flush=True)
    try:
        if options.foreground:
            while True:
                time.sleep(3600)
        # Not sys.stdin: a forked session closes it, and would wait for ever for the lock that a reader holds.
        while os.read(0, 4096):
            pass
    except KeyboardInterrupt:
        pass
    del state
    # Sessions run in forked children; they share our process group when we lead one.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
