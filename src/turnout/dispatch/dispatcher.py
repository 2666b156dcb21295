"""Walk a plan: make the target ready, call it, relay the answer, and go on to the next as long as that is honest.

Honest means: until the first byte has reached the caller. After it, a failure is told in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from turnout.config.schema import DeadlineSettings
from turnout.core.clock import Clock
from turnout.core.errors import (
    Broken,
    Busy,
    ConnectFailed,
    CutOff,
    DeadlineExceeded,
    LoadFailed,
    NoTarget,
    ShuttingDown,
    TurnoutError,
)
from turnout.core.events import BreakerChanged, Emit, Event, RequestFinished, WorkerChanged
from turnout.core.words import Plan, Request, Target
from turnout.dispatch.breaker import Breakers
from turnout.dispatch.outcome import classify, outcome_of
from turnout.dispatch.record import BREAKER_OPEN, TARGET_GONE, AttemptRecord, Record
from turnout.dispatch.relay import Sink, StreamWatch, first_piece, read_answer, relay_stream
from turnout.routing.policy import make_plan
from turnout.tiers.base import Call
from turnout.tiers.fleet import Fleet
from turnout.tiers.transport import Deadlines

ANSWER_BYTES = 256 << 20
ERROR_BODY_BYTES = 1 << 20


class Dispatcher:
    """Serves requests.

    Args:
        fleet: Who can serve.
        clock: Time.
        emit: Tells everybody about a fact.
        deadlines: The one table of deadlines.
    """

    def __init__(self, fleet: Fleet, clock: Clock, emit: Emit, deadlines: DeadlineSettings) -> None:
        self._fleet = fleet
        self._clock = clock
        self._emit = emit
        self._deadlines = deadlines
        self._breakers = Breakers()
        self._running: set[asyncio.Timeout] = set()
        self._is_closing = False
        self._call_deadlines = Deadlines(
            connect=deadlines.connect, first_byte=deadlines.first_byte, gap=deadlines.gap, write=deadlines.write_stall
        )

    @property
    def running_requests(self) -> int:
        """How many requests are being served."""
        return len(self._running)

    def plan(self, request: Request) -> Plan:
        """Return the plan for a request; see ``routing.policy.make_plan`` for what it raises."""
        return make_plan(request, self._fleet.snapshot)

    def hear(self, event: Event) -> None:
        """Listen to the bus: a worker that has become ready starts with a clean record."""
        if isinstance(event, WorkerChanged) and event.state == "ready" and self._breakers.succeeded(event.target):
            self._emit(BreakerChanged(target=event.target, is_open=False, reason="it is ready again"))

    def refuse_new(self) -> None:
        """Begin to close: what runs may go on, what comes is told to come back later."""
        self._is_closing = True

    def end_running(self) -> None:
        """End everything that runs, each with a proper error and end marker."""
        self._is_closing = True
        now = asyncio.get_running_loop().time()
        for limit in self._running:
            with contextlib.suppress(RuntimeError):  # its own deadline has just passed: it is ending already
                limit.reschedule(now)

    async def answer(self, request: Request, rewrite: Callable[[str], bytes], sink: Sink, key_name: str = "") -> None:
        """Serve one request to its end.

        Args:
            request: Its facts.
            rewrite: Returns the body with ``model`` replaced by an engine's own name.
            sink: Takes the answer.
            key_name: For the trace.

        Raises:
            TurnoutError: Nothing was sent to the caller yet; after the first byte errors go into the sink.
        """
        record = Record(request, self._clock, key_name)
        failure: TurnoutError | None = None
        caller_left = True
        watch = StreamWatch()
        try:
            try:
                await self._serve(request, rewrite, sink, record, watch)
            except TimeoutError:
                failure = None if watch.is_told else self._why_ended(request)
            except TurnoutError as error:
                failure = error
            if failure is not None and sink.is_begun:
                await sink.fail(failure, is_inside_event=watch.is_inside_event)
            caller_left = False
        finally:
            caller_left = caller_left and not watch.is_told
            self._emit(RequestFinished(trace=record.finish(failure, caller_left=caller_left)))
        if failure is not None and not sink.is_begun:
            raise failure

    def turned_away(self, request: Request, error: TurnoutError, key_name: str) -> None:
        """Record a request that was wrong before it could be planned.

        Args:
            request: What is known of it.
            error: What its caller was told.
            key_name: For the trace.
        """
        record = Record(request, self._clock, key_name)
        self._emit(RequestFinished(trace=record.finish(error)))

    async def _serve(
        self, request: Request, rewrite: Callable[[str], bytes], sink: Sink, record: Record, watch: StreamWatch
    ) -> None:
        if self._is_closing:
            raise ShuttingDown("turnout is shutting down", hint="try again when it has been started again")
        total = min(self._deadlines.total, request.deadline_seconds or self._deadlines.total)
        async with asyncio.timeout(total) as limit:
            with self._registered(limit):
                record.plan = self.plan(request)
                await self._walk(record.plan, rewrite, sink, record, watch)

    @contextlib.contextmanager
    def _registered(self, limit: asyncio.Timeout) -> Iterator[None]:
        self._running.add(limit)
        try:
            yield
        finally:
            self._running.discard(limit)

    def _why_ended(self, request: Request) -> TurnoutError:
        if self._is_closing:
            return ShuttingDown("turnout is shutting down", hint="try again when it has been started again")
        limit = min(self._deadlines.total, request.deadline_seconds or self._deadlines.total)
        return DeadlineExceeded(
            f"no complete answer within {limit:g} s", hint="raise deadlines.total or x-turnout-deadline-ms"
        )

    async def _walk(
        self, plan: Plan, rewrite: Callable[[str], bytes], sink: Sink, record: Record, watch: StreamWatch
    ) -> None:
        failures: list[tuple[str, TurnoutError]] = []
        for choice in plan.candidates:
            target = self._fleet.snapshot.targets.get(choice.target)
            if target is None:
                record.skip(choice.target, TARGET_GONE, "no longer there")
                continue
            entry = self._breakers.enter(target.name, self._clock.monotonic_seconds())
            if entry.blocked:
                record.skip(target.name, BREAKER_OPEN, entry.blocked)
                continue
            try:
                await self._attempt(target, rewrite, sink, record, watch, probe=entry.probe)
            except (Broken, Busy) as error:
                if sink.is_begun:
                    raise
                failures.append((target.name, error))
            else:
                return
        raise self._nobody_answered(plan, failures, record)

    def _nobody_answered(self, plan: Plan, failures: list[tuple[str, TurnoutError]], record: Record) -> TurnoutError:
        if len(failures) == 1 and len(record.attempts) == 1:
            error = failures[0][1]
            error.hint = error.hint or f"is it running? `turnout why {record.request.id}` tells the whole story"
            return error
        told = "; ".join(f"{attempt.target}: {attempt.error}" for attempt in record.attempts)
        wait = self._breakers.wait_seconds([c.target for c in plan.candidates], self._clock.monotonic_seconds())
        return NoTarget(
            f"no target could answer: {told}",
            hint=f"`turnout why {record.request.id}` tells the whole story",
            retry_after_seconds=wait,
        )

    async def _attempt(
        self, target: Target, rewrite: Callable[[str], bytes], sink: Sink, record: Record, watch: StreamWatch,
        *, probe: int,
    ) -> None:  # fmt: skip
        attempt = record.begin_attempt(target.name)
        sink.attempts = record.tries
        try:
            await self._call(target, rewrite, sink, record, attempt, watch)
        except TurnoutError as error:
            attempt.step("failed")
            record.attempts.append(attempt.end(outcome_of(error), error))
            if isinstance(error, Broken):
                self._note_failure(target.name, error, probe=probe)
            else:
                self._breakers.gave_up(target.name, probe=probe)
            raise
        except BaseException:
            # The caller left, or the whole answer's deadline passed: that says nothing about the target.
            attempt.step("ended")
            record.attempts.append(attempt.end("answered" if watch.is_told else "caller_left"))
            self._breakers.gave_up(target.name, probe=probe)
            raise
        attempt.step("body")
        record.attempts.append(attempt.end("answered"))
        if self._breakers.succeeded(target.name):
            self._emit(BreakerChanged(target=target.name, is_open=False, reason="it answered"))

    def _note_failure(self, target: str, error: Broken, *, probe: int) -> None:
        engine = self._fleet.owner(target)
        owns_process = engine is not None and engine.capabilities.owns_process
        if isinstance(error, LoadFailed) or (owns_process and isinstance(error, ConnectFailed | CutOff)):
            # A dead process of ours is its supervisor's business: it knows when the next one is ready.
            self._breakers.gave_up(target, probe=probe)
            return
        costly = isinstance(error, ConnectFailed | DeadlineExceeded)
        now = self._clock.monotonic_seconds()
        pause = self._breakers.failed(target, error.message, now, at_once=costly, probe=probe)
        if pause:
            self._emit(BreakerChanged(target=target, is_open=True, reason=error.message, retry_in_seconds=pause))
        if engine is not None:
            engine.wish(target)

    async def _call(
        self,
        target: Target,
        rewrite: Callable[[str], bytes],
        sink: Sink,
        record: Record,
        attempt: AttemptRecord,
        watch: StreamWatch,
    ) -> None:
        engine = self._fleet.owner(target.name)
        if engine is None:
            raise ConnectFailed(f"{target.name} is no longer there")
        if target.state != "ready":
            await self._load(target)
            attempt.step("load")
        request = record.request
        call = Call(
            kind=request.kind, body=rewrite(target.model), request_id=request.id, deadlines=self._call_deadlines
        )
        response = await engine.send(target, call)
        try:
            attempt.status = response.status
            attempt.step("send")
            if not 200 <= response.status < 300:
                body = await response.read_all(ERROR_BODY_BYTES)
                raise classify(response.status, body, target.name, response.header(b"retry-after"))
            if request.stream:
                first = await first_piece(response, target.name)
                self._answering(target, record, attempt)
                await sink.begin(target, is_stream=True)
                try:
                    await relay_stream(response, first, sink, watch, target.name)
                finally:
                    record.usage = watch.usage()
            else:
                data, record.usage = await read_answer(response, target.name, ANSWER_BYTES)
                self._answering(target, record, attempt)
                await sink.begin(target, is_stream=False)
                await sink.write(data)
                await sink.finish()
        finally:
            response.close()

    def _answering(self, target: Target, record: Record, attempt: AttemptRecord) -> None:
        attempt.step("first_byte")
        record.first_byte()
        record.served = target

    async def _load(self, target: Target) -> None:
        engine = self._fleet.owner(target.name)
        assert engine is not None
        try:
            async with asyncio.timeout(self._deadlines.load):
                await engine.ready(target.name)
        except TimeoutError:
            raise LoadFailed(
                f"{target.name} was not loaded within {self._deadlines.load:g} s",
                code="load_deadline",
                hint="raise deadlines.load, or see `turnout logs`",
            ) from None
