"""Ports of this machine's loopback."""

from __future__ import annotations

import socket

from turnout.core.errors import SetupError

HOST = "127.0.0.1"


def choose_port(wanted: int | None) -> int:
    """Return the wanted port if nobody listens there, or a free one if none is wanted.

    Args:
        wanted: As configured.

    Raises:
        SetupError: The wanted port is taken.
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, wanted or 0))
        except OSError as error:
            raise SetupError(
                f"port {wanted} of {HOST} is taken ({error.strerror})",
                hint="leave `port` out, and a free one is chosen",
            ) from error
        port: int = sock.getsockname()[1]
        return port
