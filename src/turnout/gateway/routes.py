"""The endpoint: raw ASGI on the hot routes, everything else handed to the console.

A request passes guard, body, facts, dispatch, in this order; whatever goes wrong before the first byte is one typed
error in OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turnout.core.clock import Clock
from turnout.core.errors import MethodNotAllowed, ModelNotFound, NotFound, TurnoutError
from turnout.core.ids import new_request_id
from turnout.core.words import Privacy, Request, RequestKind
from turnout.dispatch.dispatcher import Dispatcher
from turnout.gateway.catalogue import list_models
from turnout.gateway.cors import answer_preflight, naming_origin
from turnout.gateway.guard import Guard, read_entry
from turnout.gateway.metrics import CONTENT_TYPE, Metrics
from turnout.gateway.openai import PRIVACIES, read_request, read_wishes
from turnout.gateway.sink import JSON_TYPE, OpenAiSink, route_headers, send_error, send_whole
from turnout.routing.names import near_names
from turnout.tiers.fleet import Fleet

GENERATION: dict[str, RequestKind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
}
READS = ("/v1/models", "/health", "/metrics")
Health = Callable[[], dict[str, object]]


class Gateway:
    """The ASGI application.

    Args:
        dispatcher: Serves requests.
        fleet: Knows the models.
        guard: Lets callers in.
        metrics: Rendered at ``/metrics``.
        health: Returns the body of ``/health``.
        console: Answers every other path.
        clock: For ``created``.
        privacy: Applies where the caller is less strict.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        fleet: Fleet,
        guard: Guard,
        metrics: Metrics,
        health: Health,
        console: ASGIApp,
        clock: Clock,
        privacy: Privacy,
    ) -> None:
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._guard = guard
        self._metrics = metrics
        self._health = health
        self._console = console
        self._created = int(clock.wall_seconds())
        self._privacy = privacy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path, method = scope["path"], scope["method"]
        request_id = new_request_id()
        entry = read_entry(scope["headers"])
        try:
            # A browser's preflight carries no key; it only learns whether the page may ask.
            is_preflight = method == "OPTIONS" and bool(entry.origin)
            key_name = self._guard.admit(
                method,
                entry,
                is_public=is_preflight or path == "/health",
                is_operators=path == "/" or path.startswith("/turnout/"),
            )
            if entry.origin:
                send = naming_origin(send, entry.origin)
            if is_preflight:
                await answer_preflight(send, entry.asked_headers)
            elif (kind := GENERATION.get(path)) is not None:
                _expect(scope, "POST")
                await self._generate(kind, scope, receive, send, request_id, key_name)
            elif path in READS or path.startswith("/v1/models/"):
                _expect(scope, "GET")
                await self._read(path, send)
            else:
                await self._console(scope, receive, send)
        except TurnoutError as error:
            await send_error(send, error, request_id, _allow(error, path))

    async def _generate(
        self, kind: RequestKind, scope: Scope, receive: Receive, send: Send, request_id: str, key_name: str
    ) -> None:
        wishes = read_wishes(scope["headers"])
        if PRIVACIES.index(self._privacy) > PRIVACIES.index(wishes.privacy):
            wishes = msgspec.structs.replace(wishes, privacy=self._privacy)
        data = await read_body(receive)
        try:
            request, body = read_request(kind, data, request_id, wishes)
        except TurnoutError as error:
            self._dispatcher.turned_away(Request(id=request_id, kind=kind, selector=""), error, key_name)
            raise
        sink = OpenAiSink(send, request)
        try:
            await self._dispatcher.answer(request, body.with_model, sink, key_name)
        except TurnoutError as error:
            await send_error(send, error, request_id, route_headers(request, None, sink.attempts))

    async def _read(self, path: str, send: Send) -> None:
        if path == "/health":
            await send_whole(send, 200, [JSON_TYPE], msgspec.json.encode(self._health()))
        elif path == "/metrics":
            await send_whole(send, 200, [(b"content-type", CONTENT_TYPE)], self._metrics.render())
        else:
            await send_whole(send, 200, [JSON_TYPE], msgspec.json.encode(self._models(path)))

    def _models(self, path: str) -> object:
        snapshot = self._fleet.snapshot
        entries = list_models(snapshot, self._created)
        if path == "/v1/models":
            return {"object": "list", "data": entries}
        name = path.removeprefix("/v1/models/")  # the server has decoded the path
        for entry in entries:
            if entry["id"] == name:
                return entry
        raise ModelNotFound(f"there is no model {name!r}", hint=near_names(name, snapshot), param="model")


async def read_body(receive: Receive) -> bytes:
    """Return the whole body; its size was limited by the server.

    Raises:
        TurnoutError: From the server: too large, too slow.
    """
    pieces: list[bytes] = []
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def not_found(path: str) -> NotFound:
    """Return the error for a path that nobody serves."""
    return NotFound(
        f"there is no path {path!r}", code="path_not_found", hint="the API lives under /v1; GET /v1/models lists models"
    )


def _expect(scope: Scope, method: str) -> None:
    given: str = scope["method"]
    if given != method and not (given == "HEAD" and method == "GET"):
        raise MethodNotAllowed(f"{scope['path']} does not know {given}", hint=f"use {method}")


def _allow(error: TurnoutError, path: str) -> list[tuple[bytes, bytes]]:
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", b"POST" if path in GENERATION else b"GET, HEAD")]
    return []
