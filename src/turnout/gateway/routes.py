"""The endpoint: the hot routes speak to the server themselves, everything else is handed to the console.

A request passes guard, body, facts, dispatch, in this order; whatever goes wrong before the first byte is one typed
error in OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp

from turnout.core.clock import Clock
from turnout.core.errors import MethodNotAllowed, ModelNotFound, NotFound, TurnoutError
from turnout.core.ids import new_request_id
from turnout.core.words import Privacy, Request, RequestKind
from turnout.dispatch.dispatcher import Dispatcher
from turnout.gateway.asgi import asgi_handler
from turnout.gateway.catalogue import list_models
from turnout.gateway.cors import answer_preflight, origin_lines
from turnout.gateway.exchange import Exchange, header_lines
from turnout.gateway.guard import Guard, read_entry
from turnout.gateway.metrics import CONTENT_TYPE, Metrics
from turnout.gateway.openai import PRIVACIES, read_request, read_wishes
from turnout.gateway.sink import JSON_LINE, OpenAiSink, route_lines, send_error
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
    """Answers every request.

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
        self._console = asgi_handler(console)
        self._created = int(clock.wall_seconds())
        self._privacy = privacy

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        path, method = exchange.path, exchange.method
        request_id = new_request_id()
        entry = read_entry(exchange.headers)
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
                exchange.more_lines = origin_lines(entry.origin)
            if is_preflight:
                await answer_preflight(exchange, entry.asked_headers)
            elif (kind := GENERATION.get(path)) is not None:
                _expect(exchange, "POST")
                await self._generate(kind, exchange, request_id, key_name)
            elif path in READS or path.startswith("/v1/models/"):
                _expect(exchange, "GET")
                await self._read(path, exchange)
            else:
                await self._console(exchange)
        except TurnoutError as error:
            await send_error(exchange, error, request_id, _allow(error, path))

    async def _generate(self, kind: RequestKind, exchange: Exchange, request_id: str, key_name: str) -> None:
        wishes = read_wishes(exchange.headers)
        if wishes.privacy != self._privacy and PRIVACIES.index(self._privacy) > PRIVACIES.index(wishes.privacy):
            wishes = msgspec.structs.replace(wishes, privacy=self._privacy)
        data = await exchange.read_body()
        try:
            request, body = read_request(kind, data, request_id, wishes)
        except TurnoutError as error:
            self._dispatcher.turned_away(Request(id=request_id, kind=kind, selector=""), error, key_name)
            raise
        sink = OpenAiSink(exchange, request)
        try:
            await self._dispatcher.answer(request, body.with_model, sink, key_name)
        except TurnoutError as error:
            await send_error(exchange, error, request_id, route_lines(request, None, sink.attempts))

    async def _read(self, path: str, exchange: Exchange) -> None:
        if path == "/health":
            await exchange.whole(200, JSON_LINE, msgspec.json.encode(self._health()))
        elif path == "/metrics":
            await exchange.whole(200, header_lines([(b"content-type", CONTENT_TYPE)]), self._metrics.render())
        else:
            await exchange.whole(200, JSON_LINE, msgspec.json.encode(self._models(path)))

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


def not_found(path: str) -> NotFound:
    """Return the error for a path that nobody serves."""
    return NotFound(
        f"there is no path {path!r}", code="path_not_found", hint="the API lives under /v1; GET /v1/models lists models"
    )


def _expect(exchange: Exchange, method: str) -> None:
    given = exchange.method
    if given != method and not (given == "HEAD" and method == "GET"):
        raise MethodNotAllowed(f"{exchange.path} does not know {given}", hint=f"use {method}")


def _allow(error: TurnoutError, path: str) -> bytes:
    if isinstance(error, MethodNotAllowed):
        return b"allow: POST\r\n" if path in GENERATION else b"allow: GET, HEAD\r\n"
    return b""
