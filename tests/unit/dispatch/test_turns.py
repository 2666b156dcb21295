"""Requests for models that share a card wait for their turn, tell their callers so, and always give the turn back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.samples import a_request
from support.scheduling import HandEngine, Shell, a_model, running
from turnout.config.schema import DeadlineSettings
from turnout.core.errors import CutOff, DeadlineExceeded, NotInTime, QueueFull, ShuttingDown, TurnoutError
from turnout.core.events import RequestFinished, RequestWaiting
from turnout.core.words import Target, Trace
from turnout.dispatch.dispatcher import Dispatcher
from turnout.tiers.base import Call
from turnout.tiers.scripted_transport import ScriptedTransport, json_response
from turnout.tiers.transport import HttpRequest, HttpResponse

BODY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}


class SpeakingEngine(HandEngine):
    """A worker held in the test's hand that answers when it is asked."""

    def __init__(self, name: str, settings: Any, context: Any, origin: Any = "configured") -> None:
        super().__init__(name, settings, context, origin)
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.news = asyncio.Event()
        self.transport = ScriptedTransport(lambda request: json_response(BODY))
        self.failure: TurnoutError | None = None

    async def send(self, target: Target, call: Call) -> HttpResponse:
        self.asked.append(call.request_id)
        self.news.set()
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure
        return await self.transport.send(HttpRequest("POST", "http://x", "/", (), call.body), call.deadlines)

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < count:
                self.news.clear()
                await self.news.wait()


class ToldSink:
    """Keeps what the caller is told."""

    def __init__(self) -> None:
        self.is_begun = self.is_answering = self.is_finished = False
        self.attempts = 0
        self.told: list[str] = []
        self.served = ""
        self.failure: TurnoutError | None = None

    async def progress(self, text: str) -> None:
        self.is_begun = True
        self.told.append(text)

    async def begin(self, served: Target) -> None:
        self.is_begun = self.is_answering = True
        self.served = served.name

    async def whole(self, served: Target, data: bytes) -> None:
        await self.begin(served)
        self.is_finished = True

    async def write(self, data: bytes) -> None:
        assert self.is_begun

    async def finish(self, last: bytes = b"") -> None:
        self.is_finished = True

    async def fail(self, error: TurnoutError) -> None:
        self.failure = error


class House:
    """A dispatcher over models that share a card of 28 GiB, 16 GiB each."""

    def __init__(self, root: Path, *names: str, **facts: Any) -> None:
        models = [a_model(name, **{"slots": 1, **facts}) for name in names]
        self.shell = Shell(root, *models, engine=SpeakingEngine)
        engine = self.shell.engine
        assert isinstance(engine, SpeakingEngine)
        self.engine = engine
        self.dispatcher = Dispatcher(
            self.shell.fleet,
            self.shell.clock,
            self.shell.bus.emit,
            DeadlineSettings(),
            turns=self.shell.loop.requests,
        )

    async def ask(self, number: int, model: str = "local/a", sink: ToldSink | None = None, **facts: Any) -> ToldSink:
        sink = sink or ToldSink()
        request = a_request(id=f"req_{number}", selector=model, **facts)
        await self.dispatcher.answer(request, lambda model, **_: model.encode(), sink, facts.get("key", ""))
        return sink

    def begin(self, number: int, sink: ToldSink | None = None, **facts: Any) -> asyncio.Task[ToldSink]:
        """Ask without waiting for the answer."""
        return asyncio.get_running_loop().create_task(self.ask(number, sink=sink, **facts))

    @property
    def traces(self) -> list[Trace]:
        return [event.trace for event in self.shell.told(RequestFinished)]

    def is_quiet(self) -> bool:
        view = self.shell.loop.view()
        return not view.waiting and all(worker.running == 0 for worker in view.workers)


async def test_a_cold_model_is_loaded_and_the_trace_says_so(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    house.engine.is_eager = False
    async with running(house.shell):
        asked = house.begin(1)
        await house.shell.heard(RequestWaiting)
        house.engine.became("local/a", "ready")
        assert (await asked).served == "local/a"
        assert [step.name for step in house.traces[0].attempts[0].steps] == ["load", "send", "first_byte", "body"]
        assert house.is_quiet()
        await house.ask(2)
        assert [step.name for step in house.traces[1].attempts[0].steps] == ["send", "first_byte", "body"]


async def test_a_request_says_how_long_its_model_is_kept(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        await house.ask(1, keep_alive_seconds=-1.0)
        assert ("stop", "local/a") not in house.engine.orders
        await house.ask(2, keep_alive_seconds=0.0)
        while ("stop", "local/a") not in house.engine.orders:
            await asyncio.sleep(0)


async def test_one_slot_serves_one_at_a_time_in_order(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        house.engine.may_answer.clear()
        asked = [house.begin(number) for number in (1, 2, 3)]
        await house.engine.until_asked(1)
        await house.shell.heard(RequestWaiting, 2)
        assert house.engine.asked == ["req_1"]
        house.engine.may_answer.set()
        await asyncio.gather(*asked)
        assert house.engine.asked == ["req_1", "req_2", "req_3"]
        assert house.traces[2].attempts[0].steps[0].name == "queue"
        assert house.is_quiet()


@pytest.mark.parametrize("is_urgent_last", [True, False])
async def test_the_urgent_one_goes_first(tmp_path: Path, *, is_urgent_last: bool) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        house.engine.may_answer.clear()
        first = house.begin(1)
        await house.engine.until_asked(1)
        calls = [(2, "background"), (3, "interactive")]
        waiting = [
            house.begin(number, priority=priority) for number, priority in (calls if is_urgent_last else calls[::-1])
        ]
        await house.shell.heard(RequestWaiting, 2)
        house.engine.may_answer.set()
        await asyncio.gather(first, *waiting)
        assert house.engine.asked == ["req_1", "req_3", "req_2"]


async def test_who_asked_for_it_is_told_of_the_waiting(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    house.engine.is_eager = False
    async with running(house.shell):
        sink = ToldSink()
        asked = house.begin(1, sink, stream=True, progress=True)
        await house.shell.heard(RequestWaiting)
        await asyncio.sleep(0)
        house.engine.became("local/a", "failed", "no weights", retry_in=60.0)
        await asyncio.wait([asked])
        assert sink.told
        assert sink.told[0].startswith("turnout: waiting for local/a, position 1")
        assert sink.failure is not None, "the head has left: the error is told in the stream"
        assert not sink.is_answering


@pytest.mark.parametrize("facts", [{"stream": True}, {"progress": True}])
async def test_nobody_else_is_told(tmp_path: Path, facts: dict[str, bool]) -> None:
    house = House(tmp_path, "local/a")
    house.engine.is_eager = False
    async with running(house.shell):
        sink = ToldSink()
        asked = house.begin(1, sink, **facts)
        await house.shell.heard(RequestWaiting)
        await asyncio.sleep(0)
        assert (sink.told, sink.is_begun) == ([], False)
        asked.cancel()
        await asyncio.wait([asked])


async def test_a_caller_who_leaves_the_line_leaves_nothing_behind(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        house.engine.may_answer.clear()
        first = house.begin(1)
        await house.engine.until_asked(1)
        second = house.begin(2)
        await house.shell.heard(RequestWaiting)
        second.cancel()
        await asyncio.wait([second])
        assert not house.shell.loop.view().waiting
        first.cancel()
        await asyncio.wait([first])
        assert house.is_quiet()
        assert [trace.outcome for trace in house.traces] == ["caller_left", "caller_left"]


async def test_a_failure_gives_the_turn_back(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        house.engine.failure = CutOff("it died")
        with pytest.raises(CutOff):
            await house.ask(1)
        assert house.is_quiet()


async def test_a_line_that_is_full_is_told_at_once_and_the_next_target_takes_over(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a", "local/b", queue_limit=1)
    async with running(house.shell):
        house.engine.may_answer.clear()
        first = house.begin(1)
        await house.engine.until_asked(1)
        second = house.begin(2)
        await house.shell.heard(RequestWaiting)
        with pytest.raises(QueueFull) as full:
            await house.ask(3)
        assert full.value.status == 429
        house.engine.may_answer.set()
        await asyncio.gather(first, second)
        assert house.is_quiet()


async def test_a_callers_own_deadline_ends_its_waiting(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        house.engine.may_answer.clear()
        first = house.begin(1)
        await house.engine.until_asked(1)
        with pytest.raises((NotInTime, DeadlineExceeded)):
            await house.ask(2, deadline_seconds=0.05)
        assert not house.shell.loop.view().waiting
        house.engine.may_answer.set()
        await first


async def test_two_models_that_do_not_fit_take_turns(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a", "local/b")
    async with running(house.shell):
        await house.ask(1, "local/a")
        await house.ask(2, "local/b")
        assert [order[:2] for order in house.engine.orders] == [
            ("start", "local/a"), ("stop", "local/a"), ("start", "local/b"),
        ]  # fmt: skip
        assert house.is_quiet()


# The door: while it is held, requests that come wait outside, and those that are inside end first.


async def test_those_inside_end_first_and_those_outside_go_in_when_it_opens(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a", slots=4)
    async with running(house.shell):
        house.engine.may_answer.clear()
        inside = house.begin(1)
        await house.engine.until_asked(1)
        with house.dispatcher.held_door() as door:
            outside = house.begin(2)
            await asyncio.sleep(0)
            assert house.engine.asked == ["req_1"]
            quiet = asyncio.get_running_loop().create_task(door.until_quiet())
            await asyncio.sleep(0)
            assert not quiet.done()
            house.engine.may_answer.set()
            await inside
            await quiet
            assert not outside.done()
        await outside
        assert house.engine.asked == ["req_1", "req_2"]


async def test_it_is_quiet_at_once_where_nobody_is(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        with house.dispatcher.held_door() as door:
            await door.until_quiet()


async def test_who_waits_outside_has_a_deadline_and_may_leave(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        with house.dispatcher.held_door() as door:
            with pytest.raises(DeadlineExceeded):
                await house.ask(1, deadline_seconds=0.01)
            leaving = house.begin(2)
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            await door.until_quiet()
        assert house.engine.asked == []


async def test_a_daemon_that_closes_ends_those_outside(tmp_path: Path) -> None:
    house = House(tmp_path, "local/a")
    async with running(house.shell):
        with house.dispatcher.held_door():
            waiting = house.begin(1)
            await asyncio.sleep(0)
            house.dispatcher.end_running()
            with pytest.raises(ShuttingDown):
                await waiting
