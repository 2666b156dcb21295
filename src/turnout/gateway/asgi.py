"""ASGI applications behind the server: the console is one; the hot routes speak to `Exchange` itself."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Scope

from turnout.gateway.exchange import Exchange, Handler, header_lines


def asgi_handler(app: ASGIApp) -> Handler:
    """Return a handler that lets an ASGI 3 application answer.

    Args:
        app: The application.
    """

    async def handle(exchange: Exchange) -> None:
        channel = Channel(exchange)
        await app(scope_of(exchange), channel.receive, channel.send)

    return handle


def scope_of(exchange: Exchange) -> Scope:
    """Return the HTTP connection scope (ASGI 3.0, HTTP spec version 2.3) of a request."""
    transport = exchange.connection.transport
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": exchange.version,
        "server": transport.get_extra_info("sockname"),
        "client": transport.get_extra_info("peername"),
        "scheme": "http",
        "root_path": "",
        "method": exchange.method,
        "path": exchange.path,
        "raw_path": exchange.raw_path,
        "query_string": exchange.query,
        "headers": exchange.headers,
        "state": {},
    }


class Channel:
    """An exchange as ASGI's two callables.

    Args:
        exchange: The request.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._is_read = False

    async def receive(self) -> Message:
        """Return the next piece of the body, or the disconnect after the answer; raises as ``read_body`` does."""
        exchange = self._exchange
        while not (exchange.is_cut or exchange.is_complete) and (
            self._is_read or not (exchange.pieces or exchange.is_whole)
        ):
            await exchange.wait()
        if exchange.refusal is not None:
            raise exchange.refusal
        if exchange.is_cut or exchange.is_complete:
            return {"type": "http.disconnect"}
        pieces, exchange.pieces = exchange.pieces, []
        self._is_read = exchange.is_whole
        return {"type": "http.request", "body": b"".join(pieces), "more_body": not exchange.is_whole}

    async def send(self, message: Message) -> None:
        """Send the head of the answer or a piece of its body.

        Raises:
            RuntimeError: The application does not keep to the order of ASGI.
        """
        exchange = self._exchange
        if message["type"] == "http.response.body":
            body, has_more = message.get("body", b""), message.get("more_body", False)
            await (exchange.write(body) if has_more else exchange.end(body))
            return
        if message["type"] != "http.response.start":
            raise RuntimeError(f"{message['type']!r} is not a message of HTTP's")
        length_bytes: int | None = None
        headers: list[tuple[bytes, bytes]] = []
        for name, value in message.get("headers", ()):
            lowered = name.lower()
            if lowered == b"content-length":
                length_bytes = int(value)
            elif lowered == b"connection":
                exchange.keep_alive = exchange.keep_alive and b"close" not in value.lower()
            elif lowered != b"transfer-encoding":
                headers.append((lowered, value))
        await exchange.begin(message["status"], header_lines(headers), length_bytes=length_bytes)
