"""``tvmfbnet devices``: who is registered with a tracker."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table


def parse_address(text: str) -> tuple[str, int]:
    """``host:port`` as a pair; UserError otherwise."""
    from tvmfbnet.errors import UserError

    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise UserError(f"{text!r} is no tracker address: write host:port, such as 127.0.0.1:9190")
    return host, int(port)


def devices_command(
    tracker: Annotated[str, typer.Option(metavar="HOST:PORT", help="The tracker to ask.")] = "127.0.0.1:9190",
    as_json: JsonFlag = False,
) -> None:
    """List the device servers that are registered with a tracker, and how many of each key are free.

    Example: tvmfbnet devices --tracker 127.0.0.1:9190
    """
    from tvmfbnet.devices.tracker import address_text, query_tracker

    host, port = parse_address(tracker)
    status = query_tracker(host, port)
    rows = [(server["key"], address_text(server)) for server in status.servers]
    if as_json:
        servers = [{"key": key, "address": address} for key, address in rows]
        print_json({"tracker": f"{host}:{port}", "servers": servers, "free": status.free})
        return
    if not rows:
        print(f"no device is registered with the tracker at {host}:{port}")
        return
    print_table("", ("key", "address", "free of this key"), [(*row, status.free.get(row[0], 0)) for row in rows])
