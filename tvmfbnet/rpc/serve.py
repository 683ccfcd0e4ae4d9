"""Runs a tracker or a device server as a child process of ours: ``python -m tvmfbnet.rpc.serve tracker|server``.

The process exits when its standard input closes, so it never outlives the command that started it, not even after
``kill -9`` during startup. Both listen on loopback by default, because TVM RPC runs any code that it receives. Slow
imports happen after the process is tied to its parent.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import stat
import sys

from tvmfbnet.rpc import lifeline

READY = "ready"


def device_info(max_session: float) -> str:
    """The Python server's device facts: JSON with the same keys as the native server's, all values text."""
    import json

    from tvmfbnet.rpc.host_facts import host_fingerprint
    from tvmfbnet.targets.tvm_runtime import installed_versions

    facts = {"server": "TVM's Python server", **host_fingerprint(), "threads": os.environ.get("TVM_NUM_THREADS", "")}
    facts["tvm_version"] = installed_versions()["apache-tvm"]
    facts["ffi_version"] = installed_versions()["apache-tvm-ffi"].split(".post")[0]
    facts["max_session_seconds"] = f"{max_session:g}"
    return json.dumps({key: str(value) for key, value in facts.items() if str(value)})


def _serve_tracker(options: argparse.Namespace) -> None:
    from tvmfbnet.rpc.runtime_only import load_runtime

    load_runtime()
    from tvmfbnet.rpc.tracker_server import serve_tracker

    serve_tracker(options.host, options.port, _say_ready)


def _fork_tracker(host: str, port: int) -> None:
    """Runs a tracker in a fork of this process, which has loaded the same; it ends with this process.

    Raises:
        DeviceError: it cannot listen there.
    """
    from tvmfbnet.errors import DeviceError

    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:  # closed by a tracker that serves
            problem = pipe.read().decode()
        if problem:
            raise DeviceError(problem)
        return
    try:
        from tvmfbnet.rpc.device_server import die_with_parent
        from tvmfbnet.rpc.tracker_server import serve_tracker

        die_with_parent()
        serve_tracker(host, port, lambda: os.close(tell))
    except BaseException as error:
        os.write(tell, (str(error) or type(error).__name__).encode())
    os._exit(1)


def _serve_device(options: argparse.Namespace) -> None:
    from tvmfbnet.rpc.addresses import split_address
    from tvmfbnet.rpc.cores import apply_cores
    from tvmfbnet.rpc.device_server import DeviceServer, Settings
    from tvmfbnet.rpc.runtime_only import load_device_runtimes, load_runtime

    tracker = split_address(options.tracker, "--tracker")
    if options.cores:
        apply_cores(options.cores)
    load_runtime()
    if options.with_tracker:
        _fork_tracker(*tracker)
    load_device_runtimes()
    settings = Settings(options.host, options.port, options.key, tracker, options.max_session)
    server = DeviceServer(settings, lambda: device_info(options.max_session))
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: stopped.append(number))
    _say_ready()
    server.run(lambda: bool(stopped) or (not options.foreground and _input_closed()))


def _say_ready() -> None:
    print(READY, flush=True)


def _input_closed() -> bool:
    """Whether standard input is closed, without blocking."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return bool(poll.poll(0)) and not os.read(0, 4096)


def _bind(parent: int) -> None:
    """Ties this process to its parent, through the pipe on standard input."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        lifeline.hold(0, parent or os.getppid(), group=os.getpgrp() == os.getpid())


def main() -> None:
    """Starts the tracker or server, prints ``ready`` to stdout, and serves until stdin closes or a signal arrives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("tracker", "server"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tracker", default="", help="host:port of the tracker that a server registers with")
    parser.add_argument("--with-tracker", action="store_true", help="run that tracker, too, in a fork of the server")
    parser.add_argument("--key", default="", help="the key that a server registers under")
    parser.add_argument("--cores", default="", help="cores that a server runs on, such as 4-7")
    parser.add_argument("--max-session", type=float, default=3600, help="longest session, whatever the client asks for")
    parser.add_argument("--parent", type=int, default=0, help="process id of the parent, to end with it")
    parser.add_argument("--foreground", action="store_true", help="run until interrupted, not until stdin closes")
    options = parser.parse_args()
    if not options.foreground:
        _bind(options.parent)

    from tvmfbnet.errors import UserError

    try:
        _serve_tracker(options) if options.what == "tracker" else _serve_device(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    sys.stderr.flush()
    os._exit(0)  # TVM's threads may still be running


if __name__ == "__main__":
    main()
