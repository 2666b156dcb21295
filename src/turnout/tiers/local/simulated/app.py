"""The simulated worker as an ASGI application: paths, the key, slots, and callers that leave.

uvicorn does not cancel a handler when its caller vanishes, so every answer races against ``http.disconnect`` in a task
group: the work, or the wait for a slot, ends at once. ``GET /simulated/state`` tells what still runs.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from turnout.core.clock import Clock
from turnout.core.errors import (
    Busy,
    ContextOverflow,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TurnoutError,
    Unauthorized,
)
from turnout.tiers.local.simulated.answer import Answer, Pace, State, fail_at_once
from turnout.tiers.local.simulated.connection import CallerLeft, Connection, Event, Receive, Send
from turnout.tiers.local.simulated.replies import embedding, reply_to
from turnout.tiers.local.simulated.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    count_tokens,
)
from turnout.tiers.local.simulated.spec import SimulatedSpec
from turnout.tiers.local.simulated.wire import Wire, embeddings_body, error_body, models_body
from turnout.tiers.local.timing import Fault

Handler = Callable[[Connection], Awaitable[None]]
Body = TypeVar("Body", bound=msgspec.Struct)


class SimulatedApp:
    """A model that says plain words at a chosen speed.

    Args:
        spec: What it serves, how fast, and how it fails.
        clock: Where time comes from.
    """

    def __init__(self, spec: SimulatedSpec, clock: Clock) -> None:
        self.is_loaded = False
        self._spec = spec
        self._clock = clock
        self._timing = spec.timing()
        self._plan = spec.plan()
        self._state = State()
        self._slots = asyncio.Semaphore(spec.slots)
        self._requests = 0
        self._created = int(clock.wall_seconds())
        self._handlers: dict[str, tuple[str, Handler]] = {
            "/health": ("GET", self._health),
            "/v1/models": ("GET", self._models),
            "/simulated/state": ("GET", self._tell_state),
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._complete),
            "/v1/embeddings": ("POST", self._embed),
        }

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        connection = Connection(scope, receive, send)
        try:
            await self._handler(connection)(connection)
        except CallerLeft:
            return
        except TurnoutError as error:
            await connection.answer(error.status, error_body(error))

    def _handler(self, connection: Connection) -> Handler:
        method, handler = self._handlers.get(connection.path, ("", None))
        if connection.path != "/health" and not self._has_key(connection):
            raise Unauthorized("the Authorization header is not 'Bearer' and this worker's key")
        if handler is None:
            raise NotFound(f"no path {connection.path!r}")
        if connection.method != method:
            raise MethodNotAllowed(f"{connection.path} takes {method}, not {connection.method!r}")
        if not self.is_loaded and connection.path != "/simulated/state":
            raise Busy("Loading model")
        return handler

    def _has_key(self, connection: Connection) -> bool:
        expected = f"Bearer {self._spec.key}".encode()
        shown = connection.headers.get(b"authorization", b"")
        return not self._spec.key or hmac.compare_digest(shown, expected)

    async def _health(self, connection: Connection) -> None:
        await connection.answer(200, b'{"status":"ok"}')

    async def _models(self, connection: Connection) -> None:
        body = models_body(self._spec.model, created=self._created, context_tokens=self._spec.context_tokens)
        await connection.answer(200, body)

    async def _tell_state(self, connection: Connection) -> None:
        await connection.answer(200, msgspec.json.encode(self._state))

    async def _chat(self, connection: Connection) -> None:
        request = await self._read(connection, ChatRequest)
        await self._generate(connection, request, request.prompt())

    async def _complete(self, connection: Connection) -> None:
        request = await self._read(connection, CompletionRequest)
        await self._generate(connection, request, request.text())

    async def _embed(self, connection: Connection) -> None:
        request = await self._read(connection, EmbeddingRequest)
        texts = request.texts()
        dimensions = self._spec.embedding_dimensions if request.dimensions is None else request.dimensions
        if not 1 <= dimensions <= self._spec.embedding_dimensions:
            most = self._spec.embedding_dimensions
            raise InvalidRequest(f"dimensions has to be 1 to {most}, not {dimensions!r}", param="dimensions")
        for text in texts:
            self._room(count_tokens(text))
        prompt_tokens = sum(map(count_tokens, texts))
        body = embeddings_body(
            [embedding(text, seed=self._spec.seed, dimensions=dimensions) for text in texts],
            model=self._spec.model,
            prompt_tokens=prompt_tokens,
            is_base64=request.encoding_format == "base64",
        )
        await self._serve(connection, prompt_tokens, lambda answer: answer.send_whole(body, tokens=0))

    async def _generate(self, connection: Connection, request: GenerationRequest, prompt: str) -> None:
        request.check()
        prompt_tokens = count_tokens(prompt)
        room = self._room(prompt_tokens)
        reply = reply_to(request, prompt, seed=self._spec.seed, tokens=self._spec.reply_tokens, room=room)
        wire = Wire(
            reply,
            is_chat=isinstance(request, ChatRequest),
            model=self._spec.model,
            created=int(self._clock.wall_seconds()),
            prompt_tokens=prompt_tokens,
            has_usage=request.stream_options is not None and request.stream_options.include_usage,
        )
        if request.stream:
            await self._serve(connection, prompt_tokens, lambda answer: answer.stream(wire))
        else:
            tokens = len(reply.pieces)
            await self._serve(connection, prompt_tokens, lambda answer: answer.send_whole(wire.body(), tokens))

    async def _read(self, connection: Connection, body_type: type[Body]) -> Body:
        body = await connection.read_body()
        try:
            return msgspec.json.decode(body, type=body_type)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"the body is not a {body_type.__name__}: {error}") from error

    def _room(self, prompt_tokens: int) -> int:
        room = self._spec.context_tokens - prompt_tokens
        if room < 1:
            raise ContextOverflow(
                f"the prompt has {prompt_tokens} tokens; with an answer that does not fit into the context of "
                f"{self._spec.context_tokens} tokens"
            )
        return room

    async def _serve(
        self, connection: Connection, prompt_tokens: int, send: Callable[[Answer], Awaitable[None]]
    ) -> None:
        """Give a valid request its fault, a slot and its answer, for as long as the caller stays."""
        fault = self._plan.fault_of(self._requests)
        self._requests += 1
        is_answered = False
        try:
            async with asyncio.TaskGroup() as group:
                departure = group.create_task(connection.wait_until_left())
                await self._answer(connection, prompt_tokens, fault, send)
                # Counted before the loop turns: a caller who has the last byte may ask for the state right away.
                is_answered = True
                self._state.finished += 1
                departure.cancel()
        except* CallerLeft:
            if not is_answered:
                self._state.cancelled += 1

    async def _answer(
        self,
        connection: Connection,
        prompt_tokens: int,
        fault: Fault | None,
        send: Callable[[Answer], Awaitable[None]],
    ) -> None:
        if fault is not None and fault.kind == "refuse_connection":
            await connection.abort()
        if fault is not None and fault.kind == "error":
            await fail_at_once(connection, fault)
            return
        delay_seconds = fault.seconds if fault is not None and fault.kind == "slow_first_token" else 0.0
        async with self._slot():
            pace = Pace(
                self._timing, self._clock, self._state, prompt_tokens=prompt_tokens, delay_seconds=delay_seconds
            )
            await send(Answer(connection, pace, fault))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        self._state.queued += 1
        try:
            await self._slots.acquire()
        finally:
            self._state.queued -= 1
        self._state.running += 1
        self._state.started += 1
        try:
            yield
        finally:
            self._state.running -= 1
            self._slots.release()
