"""``tvmfbnet devices``: who is registered with a tracker."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table


def devices_command(
    tracker: Annotated[str, typer.Option(metavar="HOST:PORT", help="The tracker to ask.")] = "127.0.0.1:9190",
    as_json: JsonFlag = False,
) -> None:
    """List the device servers that are registered with a tracker, and how many of each key are free.

    Example: tvmfbnet devices --tracker 127.0.0.1:9190
    """
    from tvmfbnet.rpc.addresses import join_address, split_address
    from tvmfbnet.rpc.tracker import address_text, query_tracker

    host, port = split_address(tracker, "--tracker")
    status = query_tracker(host, port)
    rows = [(server["key"], address_text(server)) for server in status.servers]
    if as_json:
        servers = [{"key": key, "address": address} for key, address in rows]
        print_json({"tracker": join_address(host, port), "servers": servers, "free": status.free})
        return
    if not rows:
        print(f"no device is registered with the tracker at {join_address(host, port)}")
        return
    print_table("", ("key", "address", "free of this key"), [(*row, status.free.get(row[0], 0)) for row in rows])
