"""Turns at models: at once where a model is warm, in a line where it is not, and no slot that nobody gives back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.scheduling import HandEngine, Shell, a_model, running
from turnout.core.errors import Busy, DoesNotFit, LoadFailed, NotInTime, QueueFull, ShuttingDown, TurnoutError
from turnout.core.events import RequestAdmitted, RequestTurnedAway, RequestWaiting, WorkerOrdered
from turnout.scheduler.admissions import why_refused
from turnout.scheduler.messages import RefuseRequest, WaitingView


async def test_a_target_that_needs_no_room_has_no_line(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell:
        assert shell.loop.requests.try_admit("1", "local/far")
        await shell.loop.requests.admit("2", "local/far")
        shell.loop.requests.finished("1")
        assert shell.events == []


async def test_a_cold_model_is_loaded_for_whoever_asks_and_is_warm_for_the_next(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(shell.loop.requests.admit("1", "local/a"))
        waiting = await shell.heard(RequestWaiting)
        assert (waiting.ticket, waiting.target, waiting.priority, waiting.position) == ("1", "local/a", "normal", 1)
        assert [order[:2] for order in shell.engine.orders] == [("start", "local/a")]
        shell.engine.became("local/a", "ready")
        await first
        assert shell.told(RequestAdmitted)[0].ticket == "1"

        assert shell.loop.requests.try_admit("2", "local/a")
        assert len(shell.told(RequestWaiting)) == 1, "nobody is told of those who need not wait"
        (worker,) = shell.loop.view().workers
        assert worker.running == 2
        shell.loop.requests.finished("1")
        shell.loop.requests.finished("2")
        shell.loop.requests.finished("2")
        (worker,) = shell.loop.view().workers
        assert worker.running == 0


async def test_an_end_that_comes_while_the_order_is_given_is_not_lost(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model())) as shell:
        assert shell.loop.requests.try_admit("1", "local/a"), "the engine was ready before its start returned"


async def test_a_slot_goes_to_the_next_who_waits(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell, asyncio.TaskGroup() as tasks:
        assert shell.loop.requests.try_admit("1", "local/a")
        assert not shell.loop.requests.try_admit("2", "local/a")
        second = tasks.create_task(shell.loop.requests.wait("2"))
        await shell.heard(RequestWaiting)
        assert not second.done()
        shell.loop.requests.finished("1")
        await second
        shell.loop.requests.finished("2")


async def test_a_turn_that_came_before_anybody_waited_for_it_is_kept(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell:
        assert shell.loop.requests.try_admit("1", "local/a")
        assert not shell.loop.requests.try_admit("2", "local/a")
        shell.loop.requests.finished("1")
        await shell.loop.requests.wait("2")
        assert not shell.told(RequestWaiting)


async def test_whoever_stops_waiting_leaves_the_line(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell, asyncio.TaskGroup() as tasks:
        assert shell.loop.requests.try_admit("1", "local/a")
        waiting = tasks.create_task(shell.loop.requests.admit("2", "local/a"))
        await shell.heard(RequestWaiting)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert shell.loop.view().waiting == ()
        shell.loop.requests.finished("1")
        assert shell.loop.requests.try_admit("3", "local/a")


async def test_whoever_leaves_in_the_moment_of_its_admission_gives_the_slot_back(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell, asyncio.TaskGroup() as tasks:
        assert shell.loop.requests.try_admit("1", "local/a")
        waiting = tasks.create_task(shell.loop.requests.admit("2", "local/a"))
        await shell.heard(RequestWaiting)
        shell.loop.requests.finished("1")  # admits the second, whose task has not run since
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert shell.loop.view().workers[0].running == 0
        assert shell.loop.requests.try_admit("3", "local/a")


async def test_a_request_that_leaves_before_it_waits_leaves_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell):
        assert not shell.loop.requests.try_admit("1", "local/a")
        shell.loop.requests.finished("1")
        assert shell.loop.view().waiting == ()
        shell.engine.became("local/a", "ready")
        assert shell.loop.view().workers[0].running == 0


async def test_whoever_asks_is_told_how_the_waiting_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.scheduler.leases.PROGRESS_SECONDS", 0.001)
    places: list[WaitingView] = []
    enough = asyncio.Event()

    async def progress(place: WaitingView) -> None:
        places.append(place)
        if len(places) == 3:
            enough.set()

    async with running(Shell(tmp_path, a_model(slots=1))) as shell, asyncio.TaskGroup() as tasks:
        assert shell.loop.requests.try_admit("1", "local/a")
        waiting = tasks.create_task(shell.loop.requests.admit("2", "local/a", on_progress=progress))
        await enough.wait()
        shell.loop.requests.finished("1")
        await waiting
    assert {(place.id, place.position) for place in places} == {("2", 1)}
    assert places[0].waited_seconds <= places[-1].waited_seconds


async def test_a_caller_who_cannot_be_told_has_left(tmp_path: Path) -> None:
    async def progress(place: WaitingView) -> None:
        raise ConnectionResetError("the caller is gone")

    async with running(Shell(tmp_path, a_model(slots=1))) as shell:
        assert shell.loop.requests.try_admit("1", "local/a")
        with pytest.raises(ConnectionResetError):
            await shell.loop.requests.admit("2", "local/a", on_progress=progress)
        assert shell.loop.view().waiting == ()


async def test_more_than_may_wait_are_told_to_come_back(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1, queue_limit=1))) as shell:
        assert shell.loop.requests.try_admit("1", "local/a")
        assert not shell.loop.requests.try_admit("2", "local/a")
        with pytest.raises(QueueFull) as raised:
            shell.loop.requests.try_admit("3", "local/a")
        assert raised.value.status == 429
        assert raised.value.retry_after_seconds is not None
        assert raised.value.message.startswith("local/a: ")
        assert shell.told(RequestTurnedAway)[0].reason == "queue_full"
        shell.loop.requests.finished("3")
        assert len(shell.loop.view().waiting) == 1


async def test_a_deadline_ends_the_waiting(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell:
        assert shell.loop.requests.try_admit("1", "local/a")
        with pytest.raises(NotInTime) as raised:
            await shell.loop.requests.admit("2", "local/a", deadline_seconds=0.05)
        assert (raised.value.status, raised.value.code) == (503, "queue_deadline")
        assert shell.told(RequestTurnedAway)[0].waited_seconds >= 0.04


async def test_a_model_that_never_fits_is_refused_at_once(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(gib=99))) as shell:
        with pytest.raises(DoesNotFit, match="28"):
            await shell.loop.requests.admit("1", "local/a")
        assert shell.engine.orders == []


async def test_a_load_that_fails_is_told_to_everybody_who_waits(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(refusal(shell, str(n))) for n in range(3)]
        await shell.heard(RequestWaiting, 3)
        shell.engine.became("local/a", "failed", "no such weights", 0.05)
        for task in waiting:
            error = await task
            assert isinstance(error, LoadFailed)
            assert "no such weights" in error.message
            assert error.hint == "`turnout logs a` shows why"
        assert isinstance(await refusal(shell, "early"), LoadFailed), "who comes before the next try is told, too"
        assert [order[0] for order in shell.engine.orders] == ["start"]


async def test_after_its_pause_a_failed_model_is_tried_again_for_whoever_comes(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell):
        assert not shell.loop.requests.try_admit("1", "local/a")
        shell.engine.became("local/a", "failed", "no such weights", 0.01)
        shell.engine.is_eager = True
        while await refusal(shell, "2") is not None:
            await asyncio.sleep(0.001)
        assert len(shell.engine.orders) == 2


async def refusal(shell: Shell, ticket: str) -> TurnoutError | None:
    try:
        await shell.loop.requests.admit(ticket, "local/a")
    except TurnoutError as error:
        return error
    return None


async def test_a_worker_that_dies_is_loaded_again_before_anybody_asks(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model())) as shell:
        await shell.loop.requests.load("local/a")
        assert shell.loop.requests.try_admit("1", "local/a")
        shell.engine.became("local/a", "failed", "signal SIGKILL", 0.0)
        assert [order[0] for order in shell.engine.orders] == ["start", "start"]
        assert shell.engine.states["local/a"] == "ready"
        shell.loop.requests.finished("1")
        assert shell.loop.view().workers[0].running == 0


async def test_one_that_dies_again_and_again_is_loaded_after_its_pause(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model())) as shell:
        await shell.loop.requests.load("local/a")
        shell.engine.became("local/a", "failed", "signal SIGSEGV", 0.02)
        assert len(shell.engine.orders) == 1
        while len(shell.engine.orders) < 2:
            await asyncio.sleep(0.001)


async def test_a_refusal_between_entering_and_waiting_is_told_to_whoever_waits(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell:
        assert shell.loop.requests.try_admit("1", "local/a")
        assert not shell.loop.requests.try_admit("2", "local/a")
        shell.loop.stop()
        with pytest.raises(ShuttingDown):
            await shell.loop.requests.wait("2")
        shell.loop.requests.finished("2")


async def test_a_wish_loads_a_model_and_holds_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell):
        shell.loop.requests.wish("local/a")
        shell.loop.requests.wish("local/a")
        shell.loop.requests.wish("local/nobody")
        assert len(shell.loop.view().waiting) == 1
        shell.engine.became("local/a", "ready")
        (worker,) = shell.loop.view().workers
        assert (worker.phase, worker.running, worker.waiting) == ("ready", 0, 0)
        shell.engine.became("local/a", "cold")
        shell.loop.requests.wish("local/a")
        assert len(shell.engine.orders) == 2, "a wish that came true is forgotten"
        assert shell.told(RequestTurnedAway) == []


async def test_a_wish_without_room_is_given_up(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(), a_model("local/b", lease_class="pinned"))
    async with running(shell):
        await shell.loop.requests.load("local/b")
        shell.loop.requests.wish("local/a", 0.02)
        while shell.loop.view().waiting:
            await asyncio.sleep(0.001)
        assert [order[1] for order in shell.engine.orders] == ["local/b"]


async def test_two_models_too_large_for_the_card_take_turns(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(), a_model("local/b"))) as shell:
        for name in ("local/a", "local/b", "local/a"):
            await shell.loop.requests.admit("1", name)
            shell.loop.requests.finished("1")
        assert [order[:2] for order in shell.engine.orders] == [
            ("start", "local/a"), ("stop", "local/a"), ("start", "local/b"), ("stop", "local/b"), ("start", "local/a"),
        ]  # fmt: skip
        assert {order.target for order in shell.told(WorkerOrdered) if order.reason} == {"local/a", "local/b"}


async def test_a_model_with_a_running_request_makes_no_room(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(), a_model("local/b"))) as shell:
        await shell.loop.requests.admit("1", "local/a")
        with pytest.raises(NotInTime):
            await shell.loop.requests.admit("2", "local/b", deadline_seconds=0.05)
        assert [order[:2] for order in shell.engine.orders] == [("start", "local/a")]


async def test_at_the_end_everybody_who_waits_is_told(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(slots=1))) as shell, asyncio.TaskGroup() as tasks:
        assert shell.loop.requests.try_admit("1", "local/a")
        waiting = tasks.create_task(refusal(shell, "2"))
        await shell.heard(RequestWaiting)
        shell.loop.stop()
        assert isinstance(await waiting, ShuttingDown)
        with pytest.raises(ShuttingDown):
            shell.loop.requests.try_admit("3", "local/a")
        shell.loop.requests.finished("1")


async def test_a_model_that_is_taken_away_refuses_and_ends(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(slots=1))
    async with running(shell), asyncio.TaskGroup() as tasks:
        await shell.loop.requests.admit("1", "local/a")
        waiting = tasks.create_task(refusal(shell, "2"))
        await shell.heard(RequestWaiting)
        shell.engine.wanted.clear()
        error = await waiting  # the next look at the world sees it
        assert isinstance(error, LoadFailed)
        assert error.code == "model_removed"


async def test_an_engine_that_raises_loses_no_other_decision(tmp_path: Path) -> None:
    class Clumsy(HandEngine):
        def start(self, target: str, size: str, devices: Any) -> None:
            if target == "local/a":
                raise RuntimeError("clumsy")
            super().start(target, size, devices)

    shell = Shell(tmp_path, a_model(gib=1), a_model("local/b", gib=1), engine=Clumsy, starts_at_once_per_device=2)
    async with running(shell):
        with pytest.raises(RuntimeError, match="clumsy"):
            shell.loop.requests.try_admit("1", "local/a")
        await shell.loop.requests.admit("2", "local/b")


@pytest.mark.parametrize(
    ("reason", "kind", "code"),
    [
        ("queue_full", QueueFull, "queue_full"),
        ("deadline", NotInTime, "queue_deadline"),
        ("too_large", DoesNotFit, "does_not_fit"),
        ("failed", LoadFailed, "load_failed"),
        ("removed", LoadFailed, "model_removed"),
        ("stopping", ShuttingDown, "shutting_down"),
    ],
)
def test_each_refusal_is_a_typed_error_with_a_hint(reason: Any, kind: type[TurnoutError], code: str) -> None:
    effect = RefuseRequest(ticket="1", reason=reason, message="why", retry_after_seconds=3.0)
    error = why_refused(effect, "local/a")
    assert type(error) is kind
    assert (error.code, bool(error.hint)) == (code, True)
    assert isinstance(error, Busy | LoadFailed), "the next target of the chain may take over"
