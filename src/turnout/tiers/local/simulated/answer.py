"""One answer of the simulated worker: paced by the timing model, and spoilt by its fault, if it has one."""

from __future__ import annotations

import asyncio
import os

import msgspec

from turnout.core.clock import Clock
from turnout.core.errors import RateLimited, UpstreamFailed, UpstreamRejected
from turnout.tiers.local.simulated.connection import Connection, stand_still
from turnout.tiers.local.simulated.wire import NOT_JSON, Wire, error_body
from turnout.tiers.local.timing import Fault, FaultKind, TimingModel

# With 1,000 streams at 60 tokens a second, waking for each token would take more than a core. Above this many wakes a
# second, streams wake less often and send several tokens late: 1,000 streams wake every 125 ms, 8 streams every 1 ms.
MAXIMUM_WAKES_PER_SECOND = 8000
MOST_TOKENS_AT_ONCE = 1024
CRASH_STATUS = 9
AFTER_TOKENS: frozenset[FaultKind] = frozenset({"stall", "cut", "truncate", "malformed", "crash"})


class State(msgspec.Struct):
    """What the worker has done. Every request that was queued ends as finished or as cancelled."""

    running: int = 0
    """Requests that hold a slot now."""
    queued: int = 0
    """Requests that wait for a slot now."""
    started: int = 0
    """Requests that ever got a slot."""
    finished: int = 0
    """Requests that were answered to the end (a truncated or malformed end is one, too)."""
    cancelled: int = 0
    """Requests whose connection went away first."""
    tokens_sent: int = 0
    """Answer tokens made."""


class Pace:
    """When the tokens of one request are due.

    Args:
        timing: The speed of the model.
        clock: Where time comes from.
        state: Whose tokens are counted, and how many neighbours there are.
        prompt_tokens: Length of the prompt.
        delay_seconds: How much later than it should everything comes.
    """

    def __init__(
        self, timing: TimingModel, clock: Clock, state: State, *, prompt_tokens: int, delay_seconds: float
    ) -> None:
        self._timing = timing
        self._clock = clock
        self._state = state
        self._prompt_tokens = prompt_tokens
        self._started_at = clock.monotonic_seconds() + delay_seconds

    async def read_prompt(self) -> None:
        """Wait until the first token is due."""
        await self._sleep_until(self._started_at + self._timing.seconds_to_first_token(self._prompt_tokens))

    async def next_due(self, made: int, last: int | None) -> int:
        """Wait for at least one more token and return how many are due now.

        Args:
            made: Tokens made so far.
            last: Tokens of the whole answer; None if it never ends.
        """
        await asyncio.sleep(0)  # a model that is faster than its caller must not keep the loop to itself
        while True:
            now = self._clock.monotonic_seconds()
            due = self._timing.tokens_due(self._prompt_tokens, now - self._started_at)
            due = min(due, made + MOST_TOKENS_AT_ONCE, due if last is None else last)
            if due > made:
                self._state.tokens_sent += due - made
                return due
            await self._sleep_until(self._wake_at(now, made, last))

    def _wake_at(self, now: float, made: int, last: int | None) -> float:
        due_at = self._due_at(made)
        if made == 0:
            return due_at
        wake_at = max(due_at, now + self._state.running / MAXIMUM_WAKES_PER_SECOND)
        return wake_at if last is None else min(wake_at, self._due_at(last - 1))

    def _due_at(self, token: int) -> float:
        return self._started_at + self._timing.seconds_to_token(self._prompt_tokens, token)

    async def _sleep_until(self, monotonic_seconds: float) -> None:
        await asyncio.sleep(max(monotonic_seconds - self._clock.monotonic_seconds(), 0))


class Answer:
    """Sends one answer, or fails at it as its fault says.

    Args:
        connection: Whom to.
        pace: How fast.
        fault: How it fails, or None.
    """

    def __init__(self, connection: Connection, pace: Pace, fault: Fault | None) -> None:
        self._connection = connection
        self._pace = pace
        self._fault = fault
        self._kind = fault.kind if fault else None

    async def stream(self, wire: Wire) -> None:
        """Send an event for each token when it is due.

        Args:
            wire: What to send.
        """
        tokens = len(wire.reply.pieces)
        point = self._point(tokens)
        await self._pace.read_prompt()
        await self._send_tokens(wire, 0, point)
        if self._kind in AFTER_TOKENS:
            await self._begin_stream()
        match self._kind:
            case "stall":
                await stand_still()
            case "cut":
                await self._connection.abort()
            case "crash":
                await self._crash()
            case "truncate":
                await self._connection.write(b"", has_more=False)
                return
            case "malformed":
                await self._connection.write(NOT_JSON)
                await self._send_tokens(wire, point, tokens)
            case "endless":
                await self._send_tokens(wire, tokens, None)
        await self._connection.write(wire.closing(tokens), has_more=False)

    async def send_whole(self, body: bytes, tokens: int) -> None:
        """Send a body when the last token is due.

        Args:
            body: JSON.
            tokens: How many the model makes for it; 0 if it only reads.
        """
        await self._pace.read_prompt()
        await self._make_tokens(0, self._point(tokens))
        match self._kind:
            case "stall":
                await stand_still()
            case "endless":
                await self._make_tokens(tokens, None)
            case "crash":
                await self._crash()
            case "cut":
                length = (b"content-length", b"%d" % len(body))
                await self._connection.begin(200, b"application/json", length)
                await self._connection.write(body[: len(body) // 2])
                await self._connection.abort()
            case "truncate":
                body = body[: len(body) // 2]
            case "malformed":
                body = NOT_JSON.removeprefix(b"data: ").strip()
        await self._connection.answer(200, body)

    def _point(self, tokens: int) -> int:
        return min(self._fault.after_tokens, tokens) if self._fault and self._kind in AFTER_TOKENS else tokens

    async def _begin_stream(self) -> None:
        await self._connection.begin(200, b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache"))

    async def _send_tokens(self, wire: Wire, first: int, last: int | None) -> None:
        made = first
        while last is None or made < last:
            due = await self._pace.next_due(made, last)
            await self._begin_stream()
            opening = wire.opening() if made == 0 else b""
            await self._connection.write(opening + wire.tokens(range(made, due)))
            made = due

    async def _make_tokens(self, first: int, last: int | None) -> None:
        made = first
        while last is None or made < last:
            made = await self._pace.next_due(made, last)

    async def _crash(self) -> None:
        await self._connection.flush()
        os._exit(CRASH_STATUS)


async def fail_at_once(connection: Connection, fault: Fault) -> None:
    """Answer with the status of an ``error`` fault.

    Args:
        connection: Whom to.
        fault: Its status, and its seconds as ``Retry-After``.
    """
    kind = RateLimited if fault.status == 429 else UpstreamFailed if fault.status >= 500 else UpstreamRejected
    body = error_body(kind(f"simulated error {fault.status}"))
    headers = [(b"retry-after", b"%d" % fault.seconds)] if fault.seconds else []
    await connection.answer(fault.status, body, *headers)
