"""Walking a plan: who is tried, when the next one takes over, what the caller sees and what the trace says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest

from support.samples import a_request, a_target
from turnout.config.schema import DeadlineSettings
from turnout.core.clock import ManualClock
from turnout.core.errors import (
    Busy,
    ConnectFailed,
    ContextOverflow,
    CutOff,
    DeadlineExceeded,
    LoadFailed,
    ModelNotFound,
    NoTarget,
    ShuttingDown,
    TurnoutError,
)
from turnout.core.events import BreakerChanged, Event, RequestFinished, WorkerChanged
from turnout.core.words import Origin, Target, Trace, Usage
from turnout.dispatch.dispatcher import Dispatcher
from turnout.tiers.base import Call, Capabilities, ModelSettings
from turnout.tiers.fleet import Fleet
from turnout.tiers.scripted_transport import ScriptedAnswer, ScriptedResponse, ScriptedTransport, Step, json_response
from turnout.tiers.transport import HttpRequest, HttpResponse

STREAM = ((b"content-type", b"text/event-stream"),)
CHUNK = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
GOOD = json_response({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
BODY = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
FOR_EVER = asyncio.Event


def streamed(*pieces: Any) -> ScriptedResponse:
    return ScriptedResponse(headers=STREAM, pieces=pieces)


class ScriptedEngine:
    """An engine of one target whose answers come from a script, and whose loading the test holds in its hand."""

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=False, loads_on_demand=True)

    def __init__(self, name: str, settings: Any, context: Any, origin: Origin = "configured") -> None:
        self.name = name
        self.target: Target = settings
        self.transport: ScriptedTransport = context
        self.loading: TurnoutError | asyncio.Event | None = None
        self.on_send: Callable[[], None] = lambda: None
        self.wishes = 0
        self.is_gone = False
        self.calls: list[Call] = []

    def targets(self) -> tuple[Target, ...]:
        return () if self.is_gone else (self.target,)

    async def run(self) -> None:
        raise NotImplementedError

    async def wait_known(self) -> None:
        return

    async def ready(self, target: str) -> None:
        if isinstance(self.loading, TurnoutError):
            raise self.loading
        if self.loading is not None:
            await self.loading.wait()

    def wish(self, target: str) -> None:
        self.wishes += 1

    async def send(self, target: Target, call: Call) -> HttpResponse:
        self.calls.append(call)
        self.on_send()
        request = HttpRequest("POST", "http://engine", "/v1", (), call.body)
        return await self.transport.send(request, call.deadlines)


class ListSink:
    """Keeps what the caller would see; may stop taking it, or leave."""

    def __init__(self) -> None:
        self.is_begun = self.is_answering = False
        self.told: list[str] = []
        self.attempts = 0
        self.data = b""
        self.served: Target | None = None
        self.is_finished = False
        self.failure: TurnoutError | None = None

    async def progress(self, text: str) -> None:
        self.is_begun = True
        self.told.append(text)

    async def begin(self, served: Target) -> None:
        self.is_begun = self.is_answering = True
        self.served = served

    async def whole(self, served: Target, data: bytes) -> None:
        await self.begin(served)
        await self.write(data)
        await self.finish()

    async def write(self, data: bytes) -> None:
        assert self.is_begun
        assert not self.is_finished
        self.data += data

    async def finish(self, last: bytes = b"") -> None:
        await self.write(last)
        self.is_finished = True

    async def fail(self, error: TurnoutError) -> None:
        assert not self.is_finished
        self.failure = error


def _only_the_model(model: str, *, asks_usage: bool = False) -> bytes:
    return model.encode() + b"+usage" * asks_usage


class House:
    """A dispatcher with scripted engines ``local/a``, ``local/b``... and everything that it told."""

    def __init__(self, *scripts: Iterable[Step], deadlines: DeadlineSettings | None = None, **facts: Any) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.engines: list[ScriptedEngine] = []
        names = [f"local/{letter}" for letter in "abcd"[: len(scripts)]]
        self.fleet = Fleet({}, {"orchestrator": tuple(names)})
        for name, script in zip(names, scripts, strict=True):
            engine = ScriptedEngine(name, a_target(name, **facts), ScriptedTransport(script))
            engine.on_send = lambda: self.clock.advance(0.25)
            self.engines.append(engine)
            self.fleet.add(engine)
        self.dispatcher = Dispatcher(self.fleet, self.clock, self._emit, deadlines or DeadlineSettings())

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.dispatcher.hear(event)

    async def ask(self, sink: ListSink | None = None, **facts: Any) -> ListSink:
        sink = sink or ListSink()
        async with asyncio.timeout(5):
            await self.dispatcher.answer(a_request(**facts), _only_the_model, sink, "key")
        return sink

    @property
    def trace(self) -> Trace:
        """The story of the last request."""
        finished = [event for event in self.events if isinstance(event, RequestFinished)]
        assert finished, "a request ended without its event"
        return finished[-1].trace

    @property
    def tries(self) -> list[int]:
        return [len(engine.calls) for engine in self.engines]

    def answer_of(self, index: int) -> ScriptedAnswer:
        return self.engines[index].transport.answers[-1]

    def breaker_events(self) -> list[tuple[str, bool]]:
        return [(event.target, event.is_open) for event in self.events if isinstance(event, BreakerChanged)]


async def test_a_whole_answer_reaches_the_caller_and_the_trace() -> None:
    house = House([GOOD])
    sink = await house.ask()

    assert (sink.data, sink.is_finished, sink.attempts) == (BODY, True, 1)
    assert sink.served is not None
    assert sink.served.name == "local/a"
    call = house.engines[0].calls[0]
    assert (call.body, call.request_id, call.kind) == (b"a", "req_1", "chat")
    trace = house.trace
    assert (trace.outcome, trace.http_status, trace.served_target, trace.tier) == ("answered", 200, "local/a", "local")
    assert (trace.usage, trace.key_name, trace.total_ms) == (Usage(1, 2), "key", 250.0)
    assert [(step.name, step.milliseconds) for step in trace.attempts[0].steps] == [
        ("send", 250.0), ("first_byte", 0.0), ("body", 0.0),
    ]  # fmt: skip
    assert trace.attempts[0].status == 200
    assert house.answer_of(0).is_closed
    assert not house.answer_of(0).is_cut_short


async def test_a_stream_is_relayed_and_its_usage_kept() -> None:
    house = House([streamed(CHUNK, USAGE + DONE)])
    sink = await house.ask(stream=True)

    assert sink.data == CHUNK + USAGE + DONE
    assert (house.trace.usage, house.trace.first_byte_ms) == (Usage(3, 5), 250.0)


@pytest.mark.parametrize(
    "first",
    [
        ConnectFailed("refused"), json_response({"error": "oops"}, status=500), json_response({}, status=503),
        json_response({}, status=429), json_response({}, status=401), json_response({}, status=404),
        ScriptedResponse(pieces=(b"not json",)), ScriptedResponse(pieces=(b'{"a"', CutOff("cut"))),
        json_response({}, status=302),
    ],
)  # fmt: skip
async def test_before_the_first_byte_the_next_target_takes_over(first: Step) -> None:
    house = House([first], [GOOD])
    sink = await house.ask()

    assert sink.data == BODY
    assert sink.attempts == 2
    assert house.tries == [1, 1]
    trace = house.trace
    assert [attempt.outcome for attempt in trace.attempts] in (["broken", "answered"], ["busy", "answered"])
    assert trace.attempts[0].error
    assert trace.attempts[0].code
    assert trace.served_target == "local/b"
    assert [step.name for step in trace.attempts[0].steps][-1] == "failed"
    assert trace.attempts[1].started_ms == 250.0
    assert all(answer.is_closed for answer in house.engines[0].transport.answers)


@pytest.mark.parametrize(
    "first",
    [
        streamed(b'data: {"error":"out of memory"}\n\n', DONE), streamed(), json_response({}),
        streamed(CutOff("died")), ConnectFailed("x"),
    ],
)  # fmt: skip
async def test_a_stream_that_does_not_begin_goes_to_the_next_target(first: Step) -> None:
    house = House([first], [streamed(CHUNK, DONE)])
    sink = await house.ask(stream=True)

    assert sink.data == CHUNK + DONE
    assert (sink.failure, house.trace.served_target) == (None, "local/b")


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((CHUNK, CutOff("gone")), "answer_cut_off"),
        ((CHUNK,), "answer_cut_off"),
        ((CHUNK, b"data: {"), "answer_cut_off"),
        ((CHUNK, b"data: {\n\n"), "malformed_answer"),
    ],
)
async def test_after_the_first_byte_nobody_takes_over_and_the_caller_is_told(
    pieces: tuple[Any, ...], code: str
) -> None:
    house = House([streamed(*pieces)], [streamed(CHUNK, DONE)])
    sink = await house.ask(stream=True)

    assert house.tries == [1, 0]
    assert sink.failure is not None
    assert sink.failure.code == code
    assert sink.data == CHUNK, "half an event is held back"
    assert (house.trace.outcome, house.trace.http_status, house.trace.code) == ("broken", 200, code)
    assert house.answer_of(0).is_closed


async def test_the_callers_own_mistake_is_never_tried_elsewhere() -> None:
    house = House([json_response({"error": {"message": "maximum context length is 10"}}, status=400)], [GOOD])
    with pytest.raises(ContextOverflow):
        await house.ask()

    assert house.tries == [1, 0]
    assert (house.trace.outcome, house.trace.http_status) == ("wrong", 400)
    assert house.trace.attempts[0].source == "upstream"


async def test_mistakes_of_callers_never_open_the_breaker() -> None:
    house = House([json_response({}, status=400)] * 5 + [GOOD])
    for _ in range(5):
        with pytest.raises(TurnoutError):
            await house.ask()
    assert (await house.ask()).data == BODY
    assert house.breaker_events() == []


async def test_no_target_lists_what_each_of_them_said() -> None:
    house = House([ConnectFailed("a is down")], [json_response({"error": "b is ill"}, status=500)])
    with pytest.raises(NoTarget) as raised:
        await house.ask()

    assert "local/a: a is down" in raised.value.message
    assert "local/b" in raised.value.message
    assert "b is ill" in raised.value.message
    assert "turnout why req_1" in raised.value.hint
    assert raised.value.retry_after_seconds == pytest.approx(5.0 - 0.25)
    assert (house.trace.http_status, house.trace.outcome) == (503, "busy")


async def test_the_only_target_speaks_for_itself() -> None:
    house = House([json_response({"error": "slow down"}, status=429)])
    with pytest.raises(Busy) as raised:
        await house.ask()
    assert (raised.value.status, raised.value.code) == (429, "rate_limited")


async def test_a_dead_target_is_held_back_and_the_skip_is_on_the_record() -> None:
    house = House([ConnectFailed("down"), GOOD], [GOOD, GOOD, GOOD])
    await house.ask()
    await house.ask()

    assert house.tries == [1, 2]
    skipped = house.trace.attempts[0]
    assert (skipped.target, skipped.code, skipped.outcome) == ("local/a", "breaker_open", "busy")
    assert "held back" in skipped.error
    assert house.trace.served_target == "local/b"
    assert house.engines[0].wishes == 1
    house.clock.advance(5)
    assert (await house.ask()).served is house.engines[0].target
    assert house.breaker_events() == [("local/a", True), ("local/a", False)]


async def test_everybody_held_back_is_no_target_with_the_time_to_come_back() -> None:
    house = House([ConnectFailed("down")])
    for _ in range(2):
        with pytest.raises(TurnoutError) as raised:
            await house.ask()
    assert isinstance(raised.value, NoTarget)
    assert raised.value.retry_after_seconds == pytest.approx(5.0)
    assert house.tries == [1]


async def test_a_worker_that_became_ready_starts_with_a_clean_record() -> None:
    house = House([ConnectFailed("down"), GOOD])
    with pytest.raises(ConnectFailed):
        await house.ask()
    house.dispatcher.hear(WorkerChanged(target="local/a", engine="x", state="cold"))
    with pytest.raises(NoTarget):
        await house.ask()
    house.dispatcher.hear(WorkerChanged(target="local/a", engine="x", state="ready"))
    assert (await house.ask()).data == BODY


async def test_a_cold_target_is_loaded_first_and_that_is_a_step() -> None:
    house = House([GOOD], state="cold")
    await house.ask()
    assert [step.name for step in house.trace.attempts[0].steps] == ["load", "send", "first_byte", "body"]


async def test_a_target_that_cannot_load_makes_room_and_is_not_blamed_by_the_breaker() -> None:
    house = House([GOOD], [GOOD] * 5, state="cold")
    house.engines[0].loading = LoadFailed("no file")
    for _ in range(4):
        await house.ask()

    assert house.tries == [0, 4]
    assert [attempt.code for attempt in house.trace.attempts] == ["load_failed", ""]
    assert house.breaker_events() == []


async def test_loading_has_a_deadline() -> None:
    house = House([GOOD], [GOOD], state="cold", deadlines=DeadlineSettings(load=0.001))
    house.engines[0].loading = asyncio.Event()
    sink = await house.ask()

    assert sink.served is house.engines[1].target
    assert house.trace.attempts[0].code == "load_deadline"


async def test_a_target_that_vanished_is_skipped_with_its_own_code() -> None:
    house = House([json_response({}, status=500)], [GOOD], [GOOD])

    def vanish() -> None:
        house.engines[1].is_gone = True
        house.fleet.changed()

    house.engines[0].on_send = vanish
    await house.ask()

    assert [attempt.code for attempt in house.trace.attempts] == ["upstream_failed", "target_gone", ""]
    assert house.tries == [1, 0, 1]


@pytest.mark.parametrize("is_begun", [False, True])
async def test_the_callers_deadline_ends_the_answer(is_begun: bool) -> None:
    pieces = (CHUNK, FOR_EVER()) if is_begun else (FOR_EVER(),)
    house = House([streamed(*pieces)], [streamed(CHUNK, DONE)])
    sink = ListSink()
    if is_begun:
        await house.ask(sink, stream=True, deadline_seconds=0.01)
        assert isinstance(sink.failure, DeadlineExceeded)
    else:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
            await house.ask(sink, stream=True, deadline_seconds=0.01)

    assert house.tries == [1, 0], "a deadline for the whole answer leaves no time for anybody else"
    assert house.answer_of(0).is_cut_short
    assert house.trace.outcome == "broken"
    assert house.breaker_events() == []


async def test_the_configured_deadline_holds_where_the_callers_is_longer() -> None:
    house = House([streamed(FOR_EVER())], deadlines=DeadlineSettings(total=0.01))
    with pytest.raises(DeadlineExceeded):
        await house.ask(stream=True, deadline_seconds=1000.0)


async def test_end_running_tells_every_caller_and_refuses_new_ones() -> None:
    house = House([streamed(CHUNK, FOR_EVER()), streamed(FOR_EVER())])
    begun, waiting = ListSink(), ListSink()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(house.ask(begun, stream=True))
        second = tasks.create_task(_raised(house.ask(waiting, stream=True)))
        while house.dispatcher.running_requests < 2 or not begun.data:
            await asyncio.sleep(0)
        house.dispatcher.end_running()
        await asyncio.sleep(0)
        house.dispatcher.end_running()  # a second signal while they are ending

    assert first.result() is begun
    assert isinstance(begun.failure, ShuttingDown)
    assert isinstance(second.result(), ShuttingDown)
    assert house.dispatcher.running_requests == 0
    with pytest.raises(ShuttingDown):
        await house.ask()
    assert house.tries == [2]


async def test_refuse_new_lets_running_answers_go_on() -> None:
    gate = asyncio.Event()
    house = House([streamed(CHUNK, gate, DONE)])
    sink = ListSink()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(house.ask(sink, stream=True))
        while not sink.data:
            await asyncio.sleep(0)
        house.dispatcher.refuse_new()
        with pytest.raises(ShuttingDown):
            await house.ask()
        gate.set()
    assert sink.data == CHUNK + DONE
    assert sink.failure is None


async def _raised(awaitable: Any) -> BaseException | None:
    try:
        await awaitable
    except TurnoutError as error:
        return error
    return None


async def _leave(house: House, sink: ListSink) -> None:
    """Ask for a stream and leave as soon as its first piece is there."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(house.ask(sink, stream=True))
        while not sink.data and not caller.done():
            await asyncio.sleep(0)
        caller.cancel()


async def test_a_caller_who_leaves_stops_the_work_and_nobody_is_blamed() -> None:
    house = House([streamed(CHUNK, FOR_EVER())] * 4 + [streamed(CHUNK, DONE)])
    for _ in range(4):
        await _leave(house, ListSink())
        assert house.trace.outcome == "caller_left"
        assert house.trace.attempts[0].outcome == "caller_left"
        assert house.answer_of(0).is_cut_short
    assert house.breaker_events() == []
    assert house.dispatcher.running_requests == 0
    assert (await house.ask(stream=True)).is_finished


async def test_a_caller_who_leaves_after_the_end_marker_was_answered() -> None:
    # Many clients hang up as soon as they read [DONE], while the engine's connection is still being drained.
    house = House([streamed(CHUNK, DONE, FOR_EVER())])
    sink = ListSink()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(house.ask(sink, stream=True))
        while not sink.is_finished:
            await asyncio.sleep(0)
        caller.cancel()

    assert house.trace.outcome == "answered"
    assert house.trace.attempts[0].outcome == "answered"
    assert house.answer_of(0).is_closed


async def test_a_deadline_after_the_end_marker_is_no_failure() -> None:
    house = House([streamed(CHUNK, DONE, FOR_EVER())])
    sink = await house.ask(stream=True, deadline_seconds=0.05)
    assert sink.failure is None
    assert house.trace.outcome == "answered"


async def test_a_probe_whose_caller_left_leaves_the_breaker_open_for_the_next_probe() -> None:
    house = House([ConnectFailed("down"), streamed(CHUNK, FOR_EVER()), streamed(CHUNK, DONE)])
    with pytest.raises(ConnectFailed):
        await house.ask(stream=True)
    house.clock.advance(5)
    await _leave(house, ListSink())
    assert (await house.ask(stream=True)).is_finished
    assert house.breaker_events() == [("local/a", True), ("local/a", False)]


async def test_what_routing_refuses_has_a_trace_too() -> None:
    house = House([GOOD])
    with pytest.raises(ModelNotFound):
        await house.ask(selector="nonsense")
    assert (house.trace.plan, house.trace.attempts, house.trace.http_status) == (None, (), 404)
    assert house.trace.hint


class OwnedEngine(ScriptedEngine):
    """An engine whose process is ours."""

    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=True, loads_on_demand=True)


async def test_a_dead_process_of_our_own_is_its_supervisors_business() -> None:
    house = House([GOOD])
    owned = OwnedEngine("local/own", a_target("local/own"), ScriptedTransport([ConnectFailed("dead")] * 5 + [GOOD]))
    house.fleet.add(owned)
    for _ in range(5):
        with pytest.raises(ConnectFailed):
            await house.ask(selector="local/own")
    assert (await house.ask(selector="local/own")).data == BODY
    assert house.breaker_events() == []
