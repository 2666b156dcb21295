"""An answer that takes its time: every step is an event, and the end or the error is the last one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from turnout.console.api import error_facts
from turnout.core.errors import TurnoutError

EVENTS = "text/event-stream"
"""Whoever accepts this is told the steps."""
Tell = Callable[[Any], Awaitable[None]]
"""Sends one fact."""


class ToldWork(Response):
    """Work whose steps are told. Nothing begins before the answer does, and whoever leaves cancels the work.

    Args:
        work: Given what tells a step; returns the last fact.
    """

    def __init__(self, work: Callable[[Tell], Awaitable[Any]]) -> None:
        super().__init__(media_type=EVENTS, headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI's signature
        """Work, tell, end."""

        async def put(fact: Any, *, is_last: bool = False) -> None:
            data = b"data: " + msgspec.json.encode(fact) + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": not is_last})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            last = await self._work(put)
        except TurnoutError as error:
            last = {**error_facts(error), "status": error.status}
        await put(last, is_last=True)
