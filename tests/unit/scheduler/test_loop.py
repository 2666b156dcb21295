"""Orders and their ends, the look at the world, and what can be seen: the shell around the decider."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from support.scheduling import CARD, NAP, HandEngine, Shell, SleepyEngine, a_model, a_wish, running
from turnout.core.events import EventBus, OrderOverdue, WorkerChanged, WorkerOrdered
from turnout.core.memory import GIB, HOST_RAM, DeviceReading, Size
from turnout.core.words import WorkerState
from turnout.scheduler import loop as module
from turnout.scheduler.effects import FleetEffects, Order, OrderKind, WorkerEnd, fact_of
from turnout.scheduler.messages import OrderFailed, WorkerAsleep, WorkerGone, WorkerReady
from turnout.tiers.fleet import Fleet


def changed(state: WorkerState, **facts: Any) -> WorkerChanged:
    return WorkerChanged(target="local/a", engine="hand", state=state, **facts)


def an_order(kind: OrderKind, **facts: Any) -> Order:
    return Order(kind=kind, number=7, ordered_at=100.0, **facts)


@pytest.mark.parametrize(
    ("event", "order", "fact"),
    [
        (changed("ready"), an_order("start"), WorkerReady(model="local/a", seconds=2.5, order=7)),
        (changed("ready"), an_order("wake"), WorkerReady(model="local/a", seconds=2.5, order=7)),
        (changed("ready"), an_order("resize"), WorkerReady(model="local/a", seconds=2.5, order=7)),
        (changed("ready"), None, WorkerReady(model="local/a")),
        (changed("ready"), an_order("stop"), None),
        (changed("ready", detail="busy"), an_order("sleep"), OrderFailed(model="local/a", reason="busy", order=7)),
        (
            changed("ready", detail="no room"),
            an_order("resize"),
            OrderFailed(model="local/a", reason="no room", order=7),
        ),
        (changed("asleep"), an_order("sleep", level=2), WorkerAsleep(model="local/a", level=2, seconds=2.5, order=7)),
        (changed("asleep", detail="x"), an_order("wake"), OrderFailed(model="local/a", reason="x", order=7)),
        (changed("cold"), an_order("stop"), WorkerGone(model="local/a", order=7)),
        (changed("cold"), None, WorkerGone(model="local/a")),
        (
            changed("failed", detail="no weights", retry_in_seconds=4.0),
            an_order("start"),
            WorkerGone(model="local/a", reason="no weights", retry_in=4.0, order=7),
        ),
        (changed("failed"), None, WorkerGone(model="local/a", reason="it failed", retry_in=None)),
        (changed("loading"), an_order("start"), None),
        (changed("draining"), an_order("stop"), None),
        (changed("unreachable"), None, None),
    ],
)
def test_what_a_worker_tells_is_the_end_of_its_order(
    event: WorkerChanged, order: Order | None, fact: WorkerEnd | None
) -> None:
    assert fact_of(event, order, 102.5) == fact


class Hands:
    """Orders through the fleet to one engine, and the facts that come back at once."""

    def __init__(self, kind: type[HandEngine]) -> None:
        self.facts: list[WorkerEnd] = []
        self.fleet = Fleet({}, {})
        self.bus = EventBus()
        self.bus.subscribe(lambda _: self.fleet.changed())
        self.engine = kind("hand", [a_model()], self.bus.emit)
        self.engine.is_eager = False
        self.fleet.add(self.engine)
        self.effects = FleetEffects(self.fleet, self.facts.append)


def test_orders_go_to_the_engine_of_the_model() -> None:
    hands = Hands(SleepyEngine)
    hands.effects.start("local/a", "big", {CARD: 1})
    hands.effects.stop("local/a")
    hands.effects.sleep("local/a", 2)
    hands.effects.wake("local/a")
    hands.effects.resize("local/a", "small", {CARD: 2})
    assert hands.engine.orders == [
        ("start", "local/a", "big", {CARD: 1}), ("stop", "local/a"), ("sleep", "local/a", 2), ("wake", "local/a"),
        ("resize", "local/a", "small", {CARD: 2}),
    ]  # fmt: skip
    assert hands.facts == []


def test_what_is_so_already_is_said_at_once() -> None:
    hands = Hands(SleepyEngine)
    hands.engine.became("local/a", "ready")
    hands.effects.start("local/a", "", {})
    hands.effects.wake("local/a")
    ready = WorkerReady(model="local/a")
    assert hands.facts == [ready, ready]
    assert hands.engine.orders == []


def test_a_deeper_sleep_is_not_claimed_where_nothing_is_done() -> None:
    hands = Hands(SleepyEngine)
    hands.engine.became("local/a", "asleep")
    hands.effects.sleep("local/a", 2)
    assert [type(fact) for fact in hands.facts] == [OrderFailed]
    assert hands.engine.orders == []


def test_what_an_engine_cannot_do_fails_at_once() -> None:
    hands = Hands(HandEngine)
    hands.effects.sleep("local/a", 1)
    hands.effects.wake("local/a")
    hands.effects.resize("local/a", "small", {})
    assert [type(fact) for fact in hands.facts] == [OrderFailed] * 3


def test_a_model_without_an_engine_is_gone_for_good() -> None:
    hands = Hands(SleepyEngine)
    hands.engine.wanted.clear()
    hands.effects.start("local/a", "", {})
    hands.effects.stop("local/a")
    hands.effects.sleep("local/a", 1)
    hands.effects.wake("local/a")
    hands.effects.resize("local/a", "", {})
    gone = WorkerGone(model="local/a", reason="its engine is no longer there", retry_in=None)
    assert hands.facts == [gone] * 5


async def test_an_order_without_an_end_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ORDER_SECONDS", 0.02)
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell):
        assert not shell.loop.requests.try_admit("1", "local/a")
        overdue = await shell.heard(OrderOverdue)
        assert (overdue.target, overdue.order) == ("local/a", "start")
        assert shell.engine.orders[-1] == ("stop", "local/a")
        assert shell.free_gib() == 12, "its memory stays counted until it is gone"
        await shell.heard(OrderOverdue, 2)
        assert shell.engine.orders[-1] == ("stop", "local/a")
        shell.engine.is_eager = True
        shell.engine.became("local/a", "cold")
        await shell.loop.requests.wait("1")


async def test_a_start_takes_as_long_as_it_took(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with running(shell):
        shell.loop.requests.wish("local/a")
        await asyncio.sleep(0.05)
        shell.engine.became("local/a", "ready")
        (worker,) = shell.loop.view().workers
        assert 0.04 < worker.load_seconds < 0.1, "learnt: it was guessed to take 0.1 s"


async def test_a_worker_that_sleeps_and_wakes_keeps_its_place_in_the_journal(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(sleep_levels=(NAP,)), engine=SleepyEngine)
    async with running(shell):
        await shell.loop.requests.load("local/a")
        lease = await shell.loop.leases.ask(a_wish(20, wait_seconds=5))
        (holder,) = [holder for holder in shell.loop.holders() if holder.holder == "local/a"]
        assert (holder.phase, holder.devices) == ("asleep", {HOST_RAM: GIB})
        shell.loop.leases.release(lease.id)
        await shell.loop.requests.load("local/a")
        held = [lease.model for lease in shell.loop.leases._workers.values()]
        assert held == ["local/a"]


async def test_a_model_that_wants_more_than_before_is_taken_at_its_word(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(gib=0))
    async with running(shell):
        await shell.loop.requests.load("local/a")
        assert shell.free_gib() == 28
        shell.engine.wanted[0] = a_model(gib=8)  # its weights have come in the meantime
        while shell.free_gib() != 20:
            await shell.loop.requests.load("local/a")
            await asyncio.sleep(0.001)
        assert shell.engine.orders[-1] == ("start", "local/a", "", {CARD: 8 * GIB})


async def test_what_is_measured_is_seen_with_whose_it_is(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(gib=8))
    shell.engine.pids["local/a"] = 1 << 30
    by_process = {1 << 30: 6 * GIB, os.getpid(): 3 * GIB, (1 << 30) + 1: GIB}
    shell.reader.readings[CARD] = DeviceReading(device=CARD, used_bytes=10 * GIB, by_process=by_process)
    async with running(shell):
        await shell.loop.requests.load("local/a")
        await shell.loop.leases.ask(a_wish(4, process=os.getpid()))

        def seen() -> tuple[int | None, int]:
            (card,) = [entry for entry in shell.loop.view().devices if entry.device.id == CARD]
            return card.measured_bytes, card.unattributed_bytes

        while seen() != (10 * GIB, GIB):
            await asyncio.sleep(0.001)
        assert shell.free_gib() == 28 - 8 - 4 - 1


async def test_memory_of_a_stranger_delays_a_grant_until_it_is_gone(tmp_path: Path) -> None:
    shell = Shell(tmp_path, shortage_seconds=5.0)
    shell.reader.readings[CARD] = DeviceReading(device=CARD, used_bytes=20 * GIB)
    async with running(shell), asyncio.TaskGroup() as tasks:
        while shell.free_gib() != 8:
            await asyncio.sleep(0.001)
        asking = tasks.create_task(shell.loop.leases.ask(a_wish(16, wait_seconds=5)))
        while not shell.loop.view().waiting:
            await asyncio.sleep(0.001)
        shell.reader.readings[CARD] = DeviceReading(device=CARD, used_bytes=0)
        assert (await asking).devices == {CARD: 16 * GIB}


async def test_changes_of_other_engines_are_nobodys_business(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model())) as shell:
        shell.bus.emit(WorkerChanged(target="local/far", engine="external", state="ready"))
        shell.loop.hear(OrderOverdue(target="local/a", order="start", seconds=1.0))
        assert shell.engine.orders == []


async def test_a_size_has_its_name_in_the_order(tmp_path: Path) -> None:
    sizes = (Size(name="small", devices={CARD: GIB}), Size(name="large", devices={CARD: 2 * GIB}))
    async with running(Shell(tmp_path, a_model(sizes=sizes, preferred_size=1))) as shell:
        await shell.loop.requests.load("local/a")
        (order,) = shell.told(WorkerOrdered)
        assert (order.order, order.size, order.devices) == ("start", "large", {CARD: 2 * GIB})
