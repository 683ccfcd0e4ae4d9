"""TCP addresses as text: ``host:port``, an IPv6 address in brackets."""

from __future__ import annotations

import socket

from tvmfbnet.errors import DeviceError


def join_address(host: str, port: int) -> str:
    """``host:port``, or ``[host]:port`` for an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str, what: str = "the address") -> tuple[str, int]:
    """Splits ``host:port`` or ``[host]:port``.

    Raises:
        DeviceError: malformed; names ``what``.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or any(letter.isspace() for letter in host) or not (port.isascii() and port.isdigit()):
        raise DeviceError(f"{what} is {text[:100]!r}: write host:port, or [address]:port for IPv6")
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        raise DeviceError(f"{what} is {text[:100]!r}: a port is a number from 1 to 65535")
    return host, int(port)


def listen_at(host: str, port: int, backlog: int = 128) -> socket.socket:
    """A non-blocking listening socket.

    Raises:
        DeviceError: this machine cannot listen there; says why.
    """
    reason = "the address is unknown"
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        addresses = []
    for family, kind, protocol, _, address in addresses:
        try:
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            reason = error.strerror or str(error)
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            continue
        listener.setblocking(False)
        return listener
    raise DeviceError(f"cannot listen on {join_address(host, port)}: {reason}")
