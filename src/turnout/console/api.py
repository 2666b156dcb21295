"""The operator's API under ``/turnout/v1`` and a plain status page at ``/``. The CLI speaks to nothing else."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from turnout.console.default_model import DefaultModel
from turnout.console.page import render_page
from turnout.core.errors import UNREADABLE_JSON, InvalidRequest, MethodNotAllowed, NotFound, NotGranted, TurnoutError
from turnout.core.ids import new_request_id
from turnout.dispatch.traces import TraceStore
from turnout.gateway.openai import error_body
from turnout.gateway.routes import not_found
from turnout.tiers.base import EngineLoad

TRACES_LIMIT = 1000


class JsonResponse(Response):
    """JSON by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the encoded content."""
        return msgspec.json.encode(content)


class Console:
    """The operator's handlers.

    Args:
        status: Returns what ``turnout ps`` shows.
        traces: The stories of past requests.
        default_model: What ``auto`` means.
        shut_down: Begins to stop the daemon.
        loads: Asks how busy engines are, by target.
        routes: What others answer, such as leases.py.
    """

    def __init__(
        self,
        *,
        status: Callable[[], dict[str, Any]],
        traces: TraceStore,
        default_model: DefaultModel,
        shut_down: Callable[[], None],
        loads: Callable[[], Awaitable[Mapping[str, EngineLoad]]] | None = None,
        routes: Sequence[Route] = (),
    ) -> None:
        self._status = status
        self._traces = traces
        self._default_model = default_model
        self._loads = loads
        self._routes = routes
        self._shut_down = shut_down

    def app(self) -> Starlette:
        """Return the application for every path that the gateway does not serve itself."""
        return Starlette(
            routes=[
                Route("/", self.page, methods=["GET"]),
                Route("/turnout/v1/status", self.status, methods=["GET"]),
                Route("/turnout/v1/traces", self.list_traces, methods=["GET"]),
                Route("/turnout/v1/traces/{trace_id}", self.show_trace, methods=["GET"]),
                Route("/turnout/v1/default", self.set_default, methods=["PUT"]),
                *self._routes,
                Route("/turnout/v1/shutdown", self.stop, methods=["POST"]),
            ],
            exception_handlers={404: _unknown_path, 405: _wrong_method, TurnoutError: _told},
        )

    async def page(self, _: Request) -> Response:
        """Show the status page."""
        traces = await run_in_threadpool(self._traces.newest, 20)
        return HTMLResponse(render_page(self._status(), traces))

    async def status(self, _: Request) -> Response:
        """Return daemon, targets (with how busy their engines are, where they say so) and the default model."""
        loads = {} if self._loads is None else await self._loads()
        status = self._status()
        status["targets"] = [{**target, "load": loads.get(target["name"])} for target in status["targets"]]
        return JsonResponse(status)

    async def list_traces(self, request: Request) -> Response:
        """Return the newest traces, newest first."""
        text = request.query_params.get("limit", "20")
        if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= TRACES_LIMIT):
            raise InvalidRequest(f"limit {text!r} is not a number from 1 to {TRACES_LIMIT}", param="limit")
        return JsonResponse({"traces": await run_in_threadpool(self._traces.newest, int(text))})

    async def show_trace(self, request: Request) -> Response:
        """Return one trace by id, by the unique beginning of one, or ``last``."""
        trace_id = request.path_params["trace_id"]
        trace = await run_in_threadpool(self._traces.find, trace_id)
        if trace is None:
            raise NotFound(
                f"there is no trace {trace_id!r}",
                code="trace_not_found",
                hint="answers carry their id in x-turnout-request-id; `turnout why` without an id lists the newest",
            )
        return JsonResponse(trace)

    async def set_default(self, request: Request) -> Response:
        """Choose what ``auto`` means: ``{"target": NAME}``, or an empty name to let turnout choose."""
        body = await request.body()
        try:
            target = msgspec.json.decode(body, type=dict[str, str])["target"]
        except (*UNREADABLE_JSON, KeyError) as error:
            raise InvalidRequest(f"expected a body like {{'target': NAME}}: {error}", param="target") from None
        return JsonResponse(self._default_model.choose(target))

    async def stop(self, _: Request) -> Response:
        """Begin to stop; the answer comes before the end."""
        self._shut_down()
        return JsonResponse({"stopping": True}, status_code=202)


def error_facts(error: TurnoutError) -> dict[str, Any]:
    """Return the body of an error as plain values: OpenAI's shape, and what this kind of error adds."""
    facts: dict[str, Any] = msgspec.json.decode(error_body(error, new_request_id()))
    if isinstance(error, NotGranted):
        facts["error"] |= {
            "position": error.position,
            "expected_wait_seconds": error.expected_wait_seconds,
            "holders": error.holders,
        }
    return facts


def _answer(error: TurnoutError, headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return JsonResponse(error_facts(error), status_code=error.status, headers=headers)


def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, TurnoutError)
    return _answer(error)


def _unknown_path(request: Request, _: Exception) -> Response:
    return _answer(not_found(request.url.path))


def _wrong_method(request: Request, error: Exception) -> Response:
    allowed = (getattr(error, "headers", None) or {}).get("Allow", "GET")
    path = request.url.path
    return _answer(
        MethodNotAllowed(f"{path} does not know {request.method}", hint=f"use {allowed}"), {"allow": allowed}
    )
