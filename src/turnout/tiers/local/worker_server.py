"""What the workers of ours that serve HTTP by themselves share: a socket on loopback, and a server without ceremony.

Reads: worker.py. Only worker processes import it; the daemon has a server of its own.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from turnout.tiers.local.worker import announce_failed

HOST = "127.0.0.1"
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75


class WorkerServer(uvicorn.Server):
    """A server that leaves signals alone: a worker has nothing to save, so SIGTERM may end it on the spot."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listen(port: int) -> socket.socket:
    """Return a listening socket on loopback; a port that cannot be had ends the process with a ``failed`` line.

    Args:
        port: 0 for any free one.
    """
    # With protocol 0 asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for a delayed ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as error:
        announce_failed(f"cannot listen on {HOST}:{port}: {error.strerror}")
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


def configure(app: object, **more: object) -> uvicorn.Config:
    """Return uvicorn's configuration for a worker: no access log, no lifespan, no needless headers.

    Args:
        app: The ASGI application.
        more: uvicorn's own settings beyond these.
    """
    settings: dict[str, object] = {
        "ws": "none",
        "lifespan": "off",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "date_header": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
    }
    return uvicorn.Config(app, **(settings | more))  # type: ignore[arg-type]
