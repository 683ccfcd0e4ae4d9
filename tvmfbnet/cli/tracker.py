"""``tvmfbnet tracker``: the meeting point of devices, in the foreground until it is interrupted."""

from __future__ import annotations

from typing import Annotated

import typer


def tracker_command(
    host: Annotated[str, typer.Option(help="Address to listen on; keep loopback and reach it by a tunnel.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port to listen on.")] = 9190,
) -> None:
    """Run the tracker that devices register with; Ctrl-C ends it.

    Example: tvmfbnet tracker --port 9190
    """
    import signal
    import subprocess
    import sys
    from types import FrameType

    from tvmfbnet.devices.local import require_free_port
    from tvmfbnet.errors import DeviceError
    from tvmfbnet.progress import say

    require_free_port(host, port)
    if host in ("0.0.0.0", "::", ""):
        say(
            f"warning: {host or 'all addresses'} lets anyone who reaches this machine run any code on it and its "
            "devices: TVM RPC has no authentication; prefer 127.0.0.1 with an SSH tunnel or adb reverse"
        )
    command = [sys.executable, "-m", "tvmfbnet.devices.serve", "tracker", "--foreground"]
    child = subprocess.Popen([*command, "--host", host, "--port", str(port)], stdout=subprocess.PIPE)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # A service manager ends this process with SIGTERM: the tracker must not outlive it.
    signal.signal(signal.SIGTERM, forward)
    try:
        if child.stdout is not None and child.stdout.readline():
            say(f"tracker at {host}:{port}; Ctrl-C ends it")
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()
        say("tracker stopped")
        return
    if code > 0:
        raise DeviceError(f"the tracker at {host}:{port} ended with exit code {code}; its messages are above")
