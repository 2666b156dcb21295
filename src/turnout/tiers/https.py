"""The general HTTP client: TLS and proxies, by httpx2.

Slower than `http1.py` by an order of magnitude and meant for targets where that does not matter. A body is never
decompressed here. A request is never repeated: what is behind TLS usually costs money.

One promise is weaker than in `http1.py`: bytes that a peer sends behind an answer, in the same read, stay in h11's
buffer, and httpx2 2.16 takes them for the next answer of that connection. Those that come later end the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from turnout.core.errors import Broken, ConnectFailed, CutOff, DeadlineExceeded, Malformed, Stalled
from turnout.tiers.http1 import SAFE_METHODS, end_to_end_headers, origin_of, render_head
from turnout.tiers.http1_connection import HEAD_LIMIT_BYTES, SLICE_BYTES
from turnout.tiers.transport import Deadlines, HttpRequest, HttpResponse, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx2

    # httpx2 is imported where the first request needs it: a purely local daemon never pays for it.


class Httpx2Transport(Transport):
    """HTTP/1.1 over TLS or plain, directly or through a proxy.

    Args:
        trust_env: Whether proxy variables and SSL_CERT_FILE of the environment count.
        verify: False only for tests; or a context of your own.
        max_idle: Idle connections kept; any number may be in use.
        idle_seconds: How long one is kept.
    """

    def __init__(
        self,
        *,
        trust_env: bool = True,
        verify: ssl.SSLContext | bool = True,
        max_idle: int = 64,
        idle_seconds: float = 30.0,
    ) -> None:
        self._trust_env = trust_env
        self._verify = verify
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._client: httpx2.AsyncClient | None = None
        self._is_closed = False
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, request: HttpRequest, deadlines: Deadlines) -> Httpx2Response:
        """Send a request and wait for the head of its answer; see `Transport.send`."""
        if self._is_closed:
            raise RuntimeError("the transport is closed")
        import httpx2

        name = origin_of(request.base_url).name
        wire = _wire_request(request, deadlines)
        loop = asyncio.get_running_loop()
        client = self._client = self._client or self._open()
        try:
            async with asyncio.timeout(None) as limit:

                async def note(event: str, _info: dict[str, Any]) -> None:
                    if event.endswith("receive_response_headers.started"):
                        limit.reschedule(loop.time() + deadlines.first_byte)

                wire.extensions["trace"] = note
                response = await client.send(wire, stream=True)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{name} did not begin to answer in time", code="first_byte_deadline") from error
        except httpx2.HTTPError as error:
            raise _translated(error, name) from error
        answer = Httpx2Response(response, name, deadlines, self._closing)
        if answer.problem:
            await answer.aclose()
            raise Malformed(f"the answer of {name} {answer.problem}")
        return answer

    async def aclose(self) -> None:
        """Close every connection, also those in use."""
        self._is_closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        while self._closing:
            await asyncio.wait(self._closing)

    def _open(self) -> httpx2.AsyncClient:
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx2

        return httpx2.AsyncClient(
            trust_env=self._trust_env,
            verify=self._verify,
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=self._max_idle,
                keepalive_expiry=self._idle_seconds,
            ),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # callers do not share a session
        )


class Httpx2Response(HttpResponse):
    """An answer on a connection of httpx2."""

    __slots__ = (
        "_closing",
        "_deadlines",
        "_error",
        "_is_done",
        "_is_reading",
        "_name",
        "_patience_seconds",
        "_pieces",
        "_response",
        "headers",
        "status",
    )

    def __init__(
        self, response: httpx2.Response, name: str, deadlines: Deadlines, closing: set[asyncio.Task[None]]
    ) -> None:
        self.status = response.status_code
        self.headers = tuple((key.lower(), value) for key, value in response.headers.raw)
        self._response = response
        self._name = name
        self._deadlines = deadlines
        self._patience_seconds = deadlines.first_byte
        self._closing = closing
        self._pieces: AsyncGenerator[bytes, None] = response.aiter_raw()
        self._is_done = False
        self._is_reading = False
        self._error: Broken | None = None

    @property
    def problem(self) -> str:
        """What makes this head unacceptable, or nothing."""
        if self.status < 200:
            return f"has the status {self.status}, which nobody asked for"
        if sum(len(key) + len(value) + 4 for key, value in self.headers) > HEAD_LIMIT_BYTES:
            return f"has more than {HEAD_LIMIT_BYTES} bytes of headers"
        return ""

    async def read(self) -> bytes:
        """Return the next piece of the body; see `HttpResponse.read`."""
        import httpx2

        if self._error is not None:
            raise self._error
        if self._is_done:
            return b""
        # An async generator that was cut short says "the end" when it is asked again: keep our own word on it.
        self._is_done, self._error = True, CutOff(f"{self._name}: the answer was given up here before its end")
        self._is_reading = True
        try:
            async with asyncio.timeout(self._patience_seconds):
                piece = await anext(self._pieces, b"")
        except TimeoutError as error:
            self._error = Stalled(f"{self._name} began to answer and then fell silent")
            raise self._error from error
        except httpx2.HTTPError as error:
            self._error = _translated(error, self._name)
            raise self._error from error
        finally:
            self._is_reading = False
        self._is_done, self._error = not piece, None
        self._patience_seconds = self._deadlines.gap
        return piece

    def close(self) -> None:
        """Give the answer up; see `HttpResponse.close`."""
        if self._give_up():
            # httpx2 can only be closed by a coroutine; the transport keeps the task and waits for it when it closes.
            task = asyncio.get_running_loop().create_task(self._hang_up())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Give the answer up and wait until that is done."""
        if self._give_up():
            await self._hang_up()

    async def _hang_up(self) -> None:
        await self._response.aclose()
        if not self._is_reading:  # a reader in another task gets an error and ends it itself
            await self._pieces.aclose()

    def _give_up(self) -> bool:
        if self._response.is_closed:
            return False
        if not self._is_done:
            self._is_done, self._error = True, CutOff(f"{self._name}: the answer was closed here before its end")
        return True


class _Slices:
    """A body in slices, so that the write deadline counts for each and not for the whole."""

    def __init__(self, body: bytes) -> None:
        self._rest = memoryview(body)

    def __aiter__(self) -> _Slices:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        piece = bytes(self._rest[:SLICE_BYTES])
        self._rest = self._rest[SLICE_BYTES:]
        return piece


def _wire_request(request: HttpRequest, deadlines: Deadlines) -> httpx2.Request:
    """Return the request in httpx2's type."""
    import httpx2

    origin = origin_of(request.base_url)
    if origin.unix_path:
        raise ValueError(f"{request.base_url!r}: this transport has no Unix sockets")
    render_head(request)  # for its checks: the same words are refused on every transport
    headers = end_to_end_headers(request.headers)
    if request.request_id:
        headers.append((b"x-request-id", request.request_id.encode()))
    if not any(name.lower() == b"accept-encoding" for name, _ in headers):
        headers.append((b"accept-encoding", b"identity"))
    if request.body or request.method not in SAFE_METHODS:
        headers.append((b"content-length", b"%d" % len(request.body)))
    return httpx2.Request(
        request.method,
        f"{origin.name}{origin.prefix}{request.path}",
        headers=headers,
        content=_Slices(request.body) if request.body else None,
        # No limit on reads: both kinds have their own deadline, in `send` and in `read`.
        extensions={"timeout": {"connect": deadlines.connect, "write": deadlines.write, "read": None, "pool": None}},
    )


def _translated(error: httpx2.HTTPError, name: str) -> Broken:
    """Return the error in turnout's words."""
    import httpx2

    text = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectTimeout):
        return DeadlineExceeded(f"no connection to {name} in time", code="connect_deadline")
    if isinstance(error, httpx2.WriteTimeout):
        return DeadlineExceeded(f"{name} stopped taking the request's body", code="write_deadline")
    if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol)):
        return ConnectFailed(f"no connection to {name}: {text}")
    if isinstance(error, httpx2.NetworkError):
        return CutOff(f"{name} closed the connection: {text}")
    # h11 has one error for "not HTTP" and for "ended in the middle"; its words are pinned by the contract tests.
    if isinstance(error, httpx2.RemoteProtocolError) and ("disconnected" in text or "peer closed" in text):
        return CutOff(f"{name} closed the connection: {text}")
    return Malformed(f"the answer of {name} is not HTTP: {text}")
