"""Walk a plan: make the target ready, call it, relay the answer, and go on to the next as long as that is honest.

Honest means: until the first byte has reached the caller. After it, a failure is told in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import Protocol

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
from turnout.core.snapshot import Snapshot
from turnout.core.words import Choice, Plan, Request, Target
from turnout.dispatch.breaker import Breakers
from turnout.dispatch.deadline import AnswerDeadline
from turnout.dispatch.outcome import classify, outcome_of
from turnout.dispatch.record import BREAKER_OPEN, TARGET_GONE, AttemptRecord, Record
from turnout.dispatch.relay import Sink, first_events, relay_stream, usage_of
from turnout.dispatch.watch import AnswerLimits, StreamWatch, has_tool_call
from turnout.routing.policy import make_plan
from turnout.scheduler.admissions import Admissions
from turnout.scheduler.messages import WaitingView
from turnout.tiers.base import Call, Engine
from turnout.tiers.fleet import Fleet
from turnout.tiers.transport import Deadlines, HttpResponse

ERROR_BODY_BYTES = 1 << 20
PLANS_KEPT = 1000


class Rewrite(Protocol):
    """Returns the caller's body for one engine."""

    def __call__(self, model: str, *, asks_usage: bool = False) -> bytes:
        """Return it.

        Args:
            model: The engine's own name for its model.
            asks_usage: Let the stream tell its usage, whether the caller asked for it or not.
        """
        ...


class Passage:
    """One request on its way.

    Args:
        request: Its facts.
        rewrite: Makes the body for each engine.
        sink: Takes the answer.
        record: Its story so far.
    """

    __slots__ = ("is_told", "limit", "record", "request", "rewrite", "sink")

    def __init__(self, request: Request, rewrite: Rewrite, sink: Sink, record: Record) -> None:
        self.request = request
        self.rewrite = rewrite
        self.sink = sink
        self.record = record
        self.limit: AnswerDeadline | None = None
        self.is_told = False
        """The caller has the whole answer: whatever happens from now on, it was answered."""

    async def tell_place(self, place: WaitingView) -> None:
        """Tell the caller where it stands in the line.

        Args:
            place: Of this request.
        """
        wait = f", about {place.expected_wait_seconds:.0f} s" if place.expected_wait_seconds is not None else ""
        await self.sink.progress(f"turnout: waiting for {place.model}, position {place.position}{wait}")


class Door:
    """Where requests wait while what serves them is moved."""

    def __init__(self) -> None:
        self.waiting = 0
        self.opened = asyncio.Event()
        self._quiet = asyncio.Event()

    def look(self, running: int) -> None:
        """Take note of how many there are, those outside among them."""
        if running <= self.waiting:
            self._quiet.set()
        else:
            self._quiet.clear()

    async def until_quiet(self) -> None:
        """Return when nobody is inside."""
        await self._quiet.wait()


class Dispatcher:
    """Serves requests.

    Args:
        fleet: Who can serve.
        clock: Time.
        emit: Tells everybody about a fact.
        deadlines: The one table of deadlines.
        limits: How much one answer may be.
        turns: Says when a request may go to a model that shares a device; without it, always.
    """

    def __init__(
        self,
        fleet: Fleet,
        clock: Clock,
        emit: Emit,
        deadlines: DeadlineSettings,
        limits: AnswerLimits | None = None,
        turns: Admissions | None = None,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._emit = emit
        self._deadlines = deadlines
        self._limits = limits or AnswerLimits()
        self._turns = turns
        self._breakers = Breakers()
        self._running: set[AnswerDeadline] = set()
        self._door: Door | None = None
        self._is_closing = False
        self._planned_for: Snapshot | None = None
        self._plans: dict[tuple[str, str, str], Plan] = {}
        self._call_deadlines = Deadlines(
            connect=deadlines.connect, first_byte=deadlines.first_byte, gap=deadlines.gap, write=deadlines.write_stall
        )

    @property
    def running_requests(self) -> int:
        """How many requests are being served."""
        return len(self._running)

    def plan(self, request: Request) -> Plan:
        """Return the plan for a request; see ``routing.policy.make_plan`` for what it raises.

        Plans depend on few facts and on the snapshot, which stays the same object until the world changes.
        """
        snapshot = self._fleet.snapshot
        if snapshot is not self._planned_for:
            self._planned_for, self._plans = snapshot, {}
        key = (request.selector, request.kind, request.privacy)
        plan = self._plans.get(key)
        if plan is None:
            plan = make_plan(request, snapshot)
            if len(self._plans) < PLANS_KEPT:
                self._plans[key] = plan
        return plan

    def hear(self, event: Event) -> None:
        """Listen to the bus: a worker that has become ready starts with a clean record."""
        if isinstance(event, WorkerChanged) and event.state == "ready" and self._breakers.succeeded(event.target):
            self._emit(BreakerChanged(target=event.target, is_open=False, reason="it is ready again"))

    @contextlib.contextmanager
    def held_door(self) -> Iterator[Door]:
        """Let requests that come wait outside, until the block ends; those that are inside go on."""
        assert self._door is None, "the door is held already"
        door = self._door = Door()
        door.look(len(self._running))
        try:
            yield door
        finally:
            self._door = None
            door.opened.set()

    async def _wait_outside(self) -> None:
        while (door := self._door) is not None:
            door.waiting += 1
            door.look(len(self._running))
            try:
                await door.opened.wait()
            finally:
                door.waiting -= 1

    def refuse_new(self) -> None:
        """Begin to close: what runs may go on, what comes is told to come back later."""
        self._is_closing = True

    def end_running(self) -> None:
        """End everything that runs, each with a proper error and end marker."""
        self._is_closing = True
        for limit in self._running:
            limit.pass_now()

    async def answer(self, request: Request, rewrite: Rewrite, sink: Sink, key_name: str = "") -> None:
        """Serve one request to its end.

        Args:
            request: Its facts.
            rewrite: Makes the body for each engine.
            sink: Takes the answer.
            key_name: For the trace.

        Raises:
            TurnoutError: Nothing was sent to the caller yet; after the first byte errors go into the sink.
        """
        record = Record(request, self._clock, key_name)
        passage = Passage(request, rewrite, sink, record)
        failure: TurnoutError | None = None
        caller_left = True
        try:
            try:
                if self._is_closing:
                    raise _shutting_down()
                with AnswerDeadline(min(self._deadlines.total, request.deadline_seconds or math.inf)) as limit:
                    passage.limit = limit
                    self._running.add(limit)
                    try:
                        if self._door is not None:
                            await self._wait_outside()
                        plan = record.plan = self.plan(request)
                        await self._walk(plan, passage)
                    finally:
                        self._running.discard(limit)
                        if self._door is not None:
                            self._door.look(len(self._running))
            except TimeoutError:
                failure = None if passage.is_told else self._why_ended(request)
            except TurnoutError as error:
                failure = _told(error)
            if failure is not None and sink.is_begun:
                await sink.fail(failure)
            caller_left = False
        finally:
            caller_left = caller_left and not passage.is_told
            self._emit(RequestFinished(trace=record.finish(failure, caller_left=caller_left)))
        if failure is not None and not sink.is_begun:
            try:
                raise failure
            finally:
                failure = None  # its traceback holds this frame

    def turned_away(self, request: Request, error: TurnoutError, key_name: str) -> None:
        """Record a request that was wrong before it could be planned.

        Args:
            request: What is known of it.
            error: What its caller was told.
            key_name: For the trace.
        """
        record = Record(request, self._clock, key_name)
        self._emit(RequestFinished(trace=record.finish(error)))

    def _why_ended(self, request: Request) -> TurnoutError:
        if self._is_closing:
            return _shutting_down()
        limit = min(self._deadlines.total, request.deadline_seconds or self._deadlines.total)
        return DeadlineExceeded(
            f"no complete answer within {limit:g} s", hint="raise deadlines.total or x-turnout-deadline-ms"
        )

    async def _walk(self, plan: Plan, passage: Passage) -> None:
        record, sink = passage.record, passage.sink
        failures: list[TurnoutError] = []
        for choice in plan.candidates:
            target = self._fleet.snapshot.targets.get(choice.target)
            engine = self._fleet.owner(choice.target)
            if target is None or engine is None:
                record.skip(choice.target, TARGET_GONE, "no longer there")
                continue
            entry = self._breakers.enter(target.name, self._clock.monotonic_seconds())
            if entry.blocked:
                record.skip(target.name, BREAKER_OPEN, entry.blocked)
                continue
            try:
                await self._attempt(target, engine, passage, probe=entry.probe)
            except (Broken, Busy) as error:
                if sink.is_answering:
                    raise
                failures.append(_told(error))
            else:
                return
        raise self._nobody_answered(plan.candidates, failures, record)

    def _nobody_answered(
        self, candidates: tuple[Choice, ...], failures: list[TurnoutError], record: Record
    ) -> TurnoutError:
        if len(failures) == 1 and len(record.attempts) == 1:
            error = failures[0]
            error.hint = error.hint or f"is it running? `turnout why {record.request.id}` tells the whole story"
            return error
        told = "; ".join(f"{attempt.target}: {attempt.error}" for attempt in record.attempts)
        wait = self._breakers.wait_seconds([c.target for c in candidates], self._clock.monotonic_seconds())
        return NoTarget(
            f"no target could answer: {told}",
            hint=f"`turnout why {record.request.id}` tells the whole story",
            retry_after_seconds=wait,
        )

    async def _attempt(self, target: Target, engine: Engine, passage: Passage, *, probe: int) -> None:
        record = passage.record
        attempt = record.begin_attempt(target.name)
        passage.sink.attempts = record.tries
        try:
            await self._call(target, engine, passage, attempt)
        except TurnoutError as error:
            attempt.step("failed")
            record.attempts.append(attempt.end(outcome_of(error), error))
            if isinstance(error, Broken):
                self._note_failure(target.name, engine, error, probe=probe)
            else:
                self._breakers.gave_up(target.name, probe=probe)
            raise
        except BaseException:
            # The caller left, or the whole answer's deadline passed: that says nothing about the target.
            attempt.step("ended")
            self._breakers.gave_up(target.name, probe=probe)
            if passage.is_told:
                record.attempts.append(attempt.end("answered"))
            elif passage.limit is not None and passage.limit.has_passed:
                reason = self._why_ended(passage.request)
                record.attempts.append(attempt.end(outcome_of(reason), reason))
            else:
                record.attempts.append(attempt.end("caller_left"))
            raise
        attempt.step("body")
        record.attempts.append(attempt.end("answered"))
        if self._breakers.succeeded(target.name):
            self._emit(BreakerChanged(target=target.name, is_open=False, reason="it answered"))

    def _note_failure(self, target: str, engine: Engine, error: Broken, *, probe: int) -> None:
        owns_process = engine.capabilities.owns_process
        if isinstance(error, LoadFailed) or (owns_process and isinstance(error, ConnectFailed | CutOff)):
            # A dead process of ours is its supervisor's business: it knows when the next one is ready.
            self._breakers.gave_up(target, probe=probe)
            return
        costly = isinstance(error, ConnectFailed | DeadlineExceeded)
        now = self._clock.monotonic_seconds()
        pause = self._breakers.failed(target, error.message, now, at_once=costly, probe=probe)
        if pause:
            self._emit(BreakerChanged(target=target, is_open=True, reason=error.message, retry_in_seconds=pause))
        engine.wish(target)

    async def _call(self, target: Target, engine: Engine, passage: Passage, attempt: AttemptRecord) -> None:
        if self._turns is None or not self._turns.manages(target.name):
            if target.state != "ready":
                await self._load(target, engine)
                attempt.step("load")
            await self._exchange(target, engine, passage, attempt)
            return
        request = passage.request
        ticket = f"{request.id}.{passage.record.tries}"
        caller = passage.record.key_name or request.session
        try:
            if not self._turns.try_admit(
                ticket,
                target.name,
                request.priority,
                caller,
                request.deadline_seconds,
                keep_seconds=request.keep_alive_seconds,
            ):
                told = passage.tell_place if request.progress and request.stream else None
                await self._turns.wait(ticket, request.priority, told)
                attempt.step("queue" if target.state == "ready" else "load")
            await self._exchange(target, engine, passage, attempt)
        finally:
            self._turns.finished(ticket)

    async def _exchange(self, target: Target, engine: Engine, passage: Passage, attempt: AttemptRecord) -> None:
        request = passage.request
        asks_usage = target.counts_tokens and request.stream
        call = Call(
            kind=request.kind,
            body=passage.rewrite(target.model, asks_usage=asks_usage),
            request_id=request.id,
            deadlines=self._call_deadlines,
        )
        response = await engine.send(target, call)
        try:
            attempt.status = response.status
            attempt.step("send")
            if not 200 <= response.status < 300:
                body = await response.read_all(ERROR_BODY_BYTES)
                raise classify(response.status, body, target.name, response.header(b"retry-after"))
            if request.stream:
                strips = asks_usage and not request.wants_usage
                await self._relay(response, target, passage, attempt, strips_usage=strips)
            else:
                data = await response.read_all(self._limits.answer_bytes)
                passage.record.usage = usage_of(data, target.name)
                self._answering(target, passage.record, attempt)
                await passage.sink.whole(target, data)
                passage.is_told = True
                passage.record.delivered = "tool_call" if has_tool_call(data) else "text"
        finally:
            response.close()

    async def _relay(
        self, response: HttpResponse, target: Target, passage: Passage, attempt: AttemptRecord, *, strips_usage: bool
    ) -> None:
        watch = StreamWatch(target.name, self._limits, strips_usage=strips_usage)
        first = await first_events(response, watch, target.name, self._deadlines.first_byte)
        self._answering(target, passage.record, attempt)
        try:
            await passage.sink.begin(target)
            await relay_stream(response, first, passage.sink, watch, target.name)
        finally:
            watch.finish()
            passage.is_told = watch.is_told
            passage.record.usage, passage.record.delivered = watch.usage, watch.delivered

    def _answering(self, target: Target, record: Record, attempt: AttemptRecord) -> None:
        attempt.step("first_byte")
        record.first_byte()
        record.served = target

    async def _load(self, target: Target, engine: Engine) -> None:
        try:
            async with asyncio.timeout(self._deadlines.load):
                await engine.ready(target.name)
        except TimeoutError:
            raise LoadFailed(
                f"{target.name} was not loaded within {self._deadlines.load:g} s",
                code="load_deadline",
                hint="raise deadlines.load, or see `turnout logs`",
            ) from None


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("turnout is shutting down", hint="try again when it has been started again")


def _told(error: TurnoutError) -> TurnoutError:
    """Return an error without its traceback, which holds every frame on its way, and these the error: only the garbage
    collector would free the answers and connections in them, and it comes seldom."""
    return error.with_traceback(None)
