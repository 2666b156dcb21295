"""The HTTP server: accepting, draining, stopping. connection.py says what is limited.

httptools parses, uvloop reads and writes. There is no ready server underneath: the limits, the cancellation of handlers
and the probing of half-closed callers took the place of everything that one would have brought.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from email.utils import formatdate

from turnout.core.errors import SetupError
from turnout.gateway.connection import Connection, ServerLimits, State
from turnout.gateway.exchange import Handler, logger

CANCEL_SECONDS = 5.0  # for handlers to end after they were cancelled
BACKLOG = 2048
ACCEPTED_AT_ONCE = 64
"""Connections taken in one turn of the loop; uvloop itself takes one: of 256 new callers the last waited seconds."""
SEND_BUFFER_BYTES = 131_072
"""What the kernel keeps of an answer for one caller (Linux doubles it). Left alone it grows to 4 MiB: thousands of
callers who do not read would have gigabytes copied for them, and everybody else would wait."""
NO_DESCRIPTOR_SECONDS = 1.0
"""Without accepting when there is no descriptor left: the backlog keeps whoever comes."""


class HttpServer:
    """Serve a handler on bound sockets until told to stop. Installs no signal handlers.

    Args:
        handler: Answers one request; it is cancelled when its caller leaves.
        limits: What one caller may cost.
        sockets: From `bind_socket`; closed when `serve` returns.
    """

    def __init__(self, handler: Handler, *, limits: ServerLimits, sockets: list[socket.socket]) -> None:
        self._handler = handler
        self._limits = limits
        self._sockets = sockets
        self._state = State(asyncio.get_running_loop())
        self._stop_asked = asyncio.Event()
        self._drain_seconds = 0.0
        self._drain: asyncio.Timeout | None = None
        self._joining: set[asyncio.Task[object]] = set()
        self._is_accepting = False

    @property
    def running_requests(self) -> int:
        """How many handlers run now."""
        return len(self._state.tasks)

    def stop(self, drain_seconds: float) -> None:
        """Ask `serve` to return. Asking again sets a new limit, so that an impatient second signal can pass 0.

        Args:
            drain_seconds: How long running handlers may go on from now, before they are cancelled.
        """
        self._drain_seconds = drain_seconds
        self._stop_asked.set()
        if self._drain is not None:
            self._drain.reschedule(asyncio.get_running_loop().time() + drain_seconds)

    async def serve(self) -> None:
        """Accept connections until `stop`, then drain."""
        self._accept_all()
        try:
            while not self._stop_asked.is_set():
                self._state.date_line = b"date: %b\r\n" % formatdate(usegmt=True).encode()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._stop_asked.wait()
            self._close_listeners()
            await self._drain_connections()
        finally:
            self._close_listeners()
            await self._cut_connections()

    def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_accepting = True
        for listener in self._sockets:
            listener.listen(BACKLOG)
            loop.add_reader(listener.fileno(), self._accept, listener)

    def _close_listeners(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_accepting = False
        for listener in self._sockets:
            if listener.fileno() >= 0:
                loop.remove_reader(listener.fileno())
                listener.close()

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                logger.error("no new connections for %g s: %s", NO_DESCRIPTOR_SECONDS, error)
                loop.remove_reader(listener.fileno())
                loop.call_later(NO_DESCRIPTOR_SECONDS, self._accept_again, listener)
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            joining = loop.create_task(self._join(accepted))
            self._joining.add(joining)
            joining.add_done_callback(self._joining.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if self._is_accepting:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    async def _join(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(loop, self._handler, self._state, self._limits), accepted
            )
        except OSError:  # it has gone already
            accepted.close()

    async def _drain_connections(self) -> None:
        self._state.is_stopping = True
        self._close_idle()
        try:
            async with asyncio.timeout(self._drain_seconds) as self._drain:
                while self._state.tasks:
                    await asyncio.wait(self._state.tasks)
                self._close_idle()
                await self._until_empty()
        except TimeoutError:
            if self._state.tasks:
                logger.warning("no time left to drain: %d running requests are cancelled", len(self._state.tasks))
        finally:
            self._drain = None

    async def _cut_connections(self) -> None:
        self._state.is_stopping = True
        if self._joining:
            await asyncio.wait(self._joining, timeout=CANCEL_SECONDS)
        for task in list(self._state.tasks):
            self._state.cancel(task)
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=CANCEL_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._until_empty()

    async def _until_empty(self) -> None:
        while self._state.connections:
            self._state.emptied.clear()
            await self._state.emptied.wait()

    def _close_idle(self) -> None:
        for connection in list(self._state.connections):
            connection.shutdown()


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is known before anything else starts.

    Args:
        host: A name or an address of this machine, IPv4 or IPv6; `::` and `0.0.0.0` mean all.
        port: 0 lets the system choose.

    Raises:
        SetupError: The port is in use or needs privileges, or the address is not this machine's.
    """
    if not 0 <= port <= 65_535:
        raise SetupError(f"{port!r} is not a port", hint="server.port is a number from 0 to 65535")
    sock: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted connections inherit these two
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _bind_error(host, port, error) from error
    sock.setblocking(False)
    return sock


def _bind_error(host: str, port: int, error: OSError) -> SetupError:
    where = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
    if error.errno == errno.EADDRINUSE:
        return SetupError(
            f"{where} is in use", hint="stop the other program, or choose another port: --port or server.port"
        )
    if error.errno == errno.EACCES:
        return SetupError(f"no permission to listen on {where}", hint="choose a server.port above 1023")
    if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return SetupError(
            f"{host!r} is no address of this machine", hint="set server.host to 127.0.0.1, ::1 or 0.0.0.0"
        )
    return SetupError(f"cannot listen on {where}: {error.strerror}", hint="check server.host and server.port")
