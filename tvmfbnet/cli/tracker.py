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
    import os
    import sys

    from tvmfbnet.progress import say
    from tvmfbnet.provisioning.loopback import require_free_port
    from tvmfbnet.rpc.addresses import join_address

    require_free_port(host, port)
    if host in ("0.0.0.0", "::", ""):
        say(
            f"warning: {host or 'all addresses'} lets anyone who reaches this machine run any code on it and its "
            "devices: TVM RPC has no authentication; prefer 127.0.0.1 with an SSH tunnel or adb reverse"
        )
    # In this very process: no child could outlive it, whatever ends it.
    from tvmfbnet.rpc.without_torch import leave_out_torch

    leave_out_torch()
    from tvmfbnet.rpc.tracker_server import serve_tracker

    serve_tracker(host, port, lambda: say(f"tracker at {join_address(host, port)}; Ctrl-C ends it"))
    say("tracker stopped")
    sys.stderr.flush()
    os._exit(0)  # taking TVM down in order takes seconds
