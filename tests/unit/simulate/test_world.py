"""The world carries orders out, takes their time, and does not let a scheduler do what none may do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from support.cards import a_card, asked, asked_and_leased, run, waits
from turnout.core.memory import GIB
from turnout.scheduler import messages as m
from turnout.simulate.profile import Profile
from turnout.simulate.world import PolicyError, World

GPU = {"host/gpu0": 4 * GIB}
ONE = a_card(8, a={})
TWO = a_card(8, a={}, b={})


class Scripted:
    """Answers each kind of fact by a function; without one it does nothing."""

    def __init__(self, **answers: Callable[[Any], list[m.Effect]]) -> None:
        self._answers = answers
        self.heard: list[tuple[float, m.Fact]] = []
        self.tick_at: float | None = None

    def decide(self, fact: m.Fact, now: float) -> list[m.Effect]:
        self.heard.append((round(now, 3), fact))
        answer = self._answers.get(type(fact).__name__)
        return answer(fact) if answer else []

    def next_at(self) -> float | None:
        return self.tick_at

    def position(self, ticket: str, now: float) -> m.WaitingView | None:
        return None

    def view(self, now: float) -> m.View:
        return m.View(devices=(), workers=(), leases=(), waiting=())

    def times_of(self, kind: type[m.Fact]) -> list[float]:
        return [now for now, fact in self.heard if isinstance(fact, kind)]


def start(name: str = "a", **facts: Any) -> m.StartWorker:
    return m.StartWorker(model=f"local/{name}", size="", devices=facts.pop("devices", GPU), **facts)


def admit(*tickets: int, model: str = "a") -> list[m.Effect]:
    return [m.AdmitRequest(ticket=str(ticket), model=f"local/{model}") for ticket in tickets]


def test_a_load_takes_its_seconds_and_the_wait_ends_with_the_work() -> None:
    scheduler = Scripted(RequestArrived=lambda _: [start()], WorkerReady=lambda _: admit(0))
    world = run(scheduler, ONE, asked(ONE, (0, "a", 2)))
    assert scheduler.times_of(m.WorkerReady) == [5.0]
    assert scheduler.times_of(m.RequestFinished) == [7.0]
    assert waits(world) == [5.0]
    assert (world.loads, world.swaps, world.evictions) == (1, 0, 0)


def test_the_engine_serves_its_slots_and_keeps_the_rest_in_line() -> None:
    card = a_card(8, a={"slots": 2})
    scheduler = Scripted(
        RequestArrived=lambda fact: [start()] if fact.ticket == "0" else [],
        WorkerReady=lambda _: admit(0, 1, 2, 3),
    )
    world = run(scheduler, card, asked(card, (0, "a", 2), (0, "a", 1), (0, "a", 3), (0, "a", 1)))
    assert waits(world) == [5.0, 5.0, 6.0, 7.0]  # by arrival: a slot is free at 6 and at 7
    assert sorted(scheduler.times_of(m.RequestFinished)) == [6.0, 7.0, 8.0, 9.0]


def test_whoever_waits_longer_than_their_patience_leaves_and_counts_with_all_of_it() -> None:
    scheduler = Scripted()
    world = run(scheduler, ONE, asked(ONE, (0, "a", 2), patience=30))
    assert scheduler.times_of(m.RequestLeft) == [30.0]
    assert waits(world) == [30.0]
    assert world.refusals == {"deadline": 1}


def test_also_inside_the_engine_somebody_leaves() -> None:
    card = a_card(8, a={"slots": 1})
    scheduler = Scripted(
        RequestArrived=lambda fact: [start()] if fact.ticket == "0" else [], WorkerReady=lambda _: admit(0, 1, 2)
    )
    world = run(scheduler, card, asked(card, (0, "a", 40), (0, "a", 1), (1, "a", 1), patience=30))
    assert waits(world) == [5.0, 30.0, 30.0]
    assert scheduler.times_of(m.RequestFinished) == [45.0]


def test_a_refusal_counts_with_the_whole_patience() -> None:
    scheduler = Scripted(
        RequestArrived=lambda fact: [m.RefuseRequest(ticket=fact.ticket, reason="queue_full", message="no")]
    )
    world = run(scheduler, ONE, asked(ONE, (0, "a", 2), patience=30))
    assert waits(world) == [30.0]
    assert world.refusals == {"queue_full": 1}


def test_a_lease_is_held_for_its_seconds_and_given_back() -> None:
    scheduler = Scripted(LeaseAsked=lambda fact: [m.GrantLease(id=fact.lease.id, ttl_seconds=fact.ttl_seconds)])
    world = run(scheduler, ONE, asked_and_leased(ONE, [], [(0, 8, 20), (25, 8, 20)]))
    assert scheduler.times_of(m.LeaseReleased) == [20.0, 45.0]
    assert waits(world) == [0.0, 0.0]
    assert world.swaps == 0


def test_a_load_after_an_eviction_is_a_swap() -> None:
    card = a_card(4, a={}, b={})
    scheduler = Scripted(
        RequestArrived=lambda fact: (
            [start("a")] if fact.ticket == "0" else [m.StopWorker(model="local/a", reason="room")]
        ),
        WorkerReady=lambda fact: admit(0) if fact.model == "local/a" else admit(1, model="b"),
        WorkerGone=lambda _: [start("b")],
    )
    world = run(scheduler, card, asked(card, (0, "a", 1), (10, "b", 1)))
    assert waits(world) == [5.0, 6.0]
    assert (world.loads, world.swaps, world.evictions, world.idle_unloads) == (2, 1, 1, 0)


def test_a_stop_for_idleness_is_no_eviction() -> None:
    card = a_card(4, a={}, b={})
    scheduler = Scripted(
        RequestArrived=lambda fact: (
            [start("a")] if fact.ticket == "0" else [m.StopWorker(model="local/a", reason="idle for long")]
        ),
        WorkerReady=lambda fact: admit(0) if fact.model == "local/a" else admit(1, model="b"),
        WorkerGone=lambda _: [start("b")],
    )
    world = run(scheduler, card, asked(card, (0, "a", 1), (10, "b", 1)))
    assert (world.swaps, world.evictions, world.idle_unloads) == (0, 0, 1)


def test_sleep_and_wake_take_their_times_and_their_room() -> None:
    card = a_card(5, a={"sleep": [{"level": 1, "residual_gib": 1, "sleep_seconds": 3, "wake_seconds": 2}]})
    residual = {"host/gpu0": 1 * GIB}
    orders: dict[str, list[m.Effect]] = {
        "0": [start()],
        "1": [m.SleepWorker(model="local/a", level=1, devices=residual, reason="room")],
        "2": [m.WakeWorker(model="local/a", devices=GPU)],
    }
    scheduler = Scripted(
        RequestArrived=lambda fact: orders[fact.ticket],
        WorkerReady=lambda _: admit(0) if len(scheduler.times_of(m.WorkerReady)) == 1 else admit(1, 2),
    )
    world = run(scheduler, card, asked(card, (0, "a", 1), (10, "a", 1), (20, "a", 1)))
    assert scheduler.times_of(m.WorkerAsleep) == [13.0]
    assert waits(world) == [5.0, 12.0, 2.0]
    assert (world.loads, world.evictions, world.swaps) == (2, 1, 1)


def test_another_size_takes_the_seconds_of_a_load_unless_the_engine_can_switch() -> None:
    scheduler = Scripted(
        RequestArrived=lambda fact: (
            [start()] if fact.ticket == "0" else [m.ResizeWorker(model="local/a", size="", devices=GPU, reason="room")]
        ),
        WorkerReady=lambda _: admit(0) if len(scheduler.times_of(m.WorkerReady)) == 1 else admit(1),
    )
    world = run(scheduler, ONE, asked(ONE, (0, "a", 1), (10, "a", 1)))
    assert waits(world) == [5.0, 5.0]


def test_the_same_order_again_is_not_a_new_one() -> None:
    scheduler = Scripted(
        RequestArrived=lambda _: [start(order=1)],
        WorkerReady=lambda fact: admit(0, 1) if fact.order == 1 else [],
    )
    world = run(scheduler, ONE, asked(ONE, (0, "a", 1), (1, "a", 1)))
    assert world.loads == 1
    assert waits(world) == [5.0, 4.0]


def ready_then(*effects: m.Effect) -> Scripted:
    """Start a worker, serve the first request for long, and order something at the second."""
    return Scripted(
        RequestArrived=lambda fact: [start()] if fact.ticket == "0" else list(effects),
        WorkerReady=lambda _: admit(0),
    )


@pytest.mark.parametrize(
    ("profile", "scheduler", "told"),
    [
        (ONE, Scripted(RequestArrived=lambda _: admit(0)), "admits a request to local/a, which is cold"),
        (ONE, Scripted(RequestArrived=lambda _: [start(devices={"host/gpu0": 9 * GIB})]), "but .* are free"),
        (ONE, ready_then(m.StopWorker(model="local/a", reason="room")), "of a worker that serves"),
        (ONE, ready_then(start()), "of a worker that is ready"),
        (ONE, ready_then(*admit(0)), "admits request 0 twice"),
        (ONE, ready_then(m.EndLease(id="lease_1", reason="expired")), "before its time"),
        (TWO, ready_then(m.WakeWorker(model="local/b", devices=GPU)), "of a worker that is cold"),
    ],
)
def test_what_no_scheduler_may_do_is_reported(profile: Profile, scheduler: Scripted, told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        run(scheduler, profile, asked(profile, (0, "a", 50), (10, "a", 1)))


def test_a_lease_is_not_granted_twice() -> None:
    scheduler = Scripted(
        LeaseAsked=lambda fact: [m.GrantLease(id=fact.lease.id, ttl_seconds=9)] * 2,
    )
    with pytest.raises(PolicyError, match="grants lease 0 twice"):
        run(scheduler, ONE, asked_and_leased(ONE, [], [(0, 1, 20)]))


def test_ticks_come_when_they_are_wanted() -> None:
    scheduler = Scripted(RequestArrived=lambda _: [start()], WorkerReady=lambda _: [])

    def tick(_: m.Fact) -> list[m.Effect]:
        scheduler.tick_at = None
        return admit(0)

    scheduler._answers["Ticked"] = tick
    scheduler.tick_at = 12.5
    world = run(scheduler, ONE, asked(ONE, (0, "a", 1)))
    assert scheduler.times_of(m.Ticked) == [12.5]
    assert waits(world) == [12.5]


def test_a_scheduler_that_asks_for_ticks_for_ever_is_reported() -> None:
    scheduler = Scripted()
    scheduler.tick_at = -math.inf
    with pytest.raises(PolicyError, match="one tick after the other"):
        run(scheduler, ONE, asked(ONE, (0, "a", 1), patience=1e6))


def test_progress_is_told() -> None:
    told: list[int] = []
    scheduler = Scripted(
        RequestArrived=lambda fact: [m.RefuseRequest(ticket=fact.ticket, reason="failed", message="no")]
    )
    World(scheduler, ONE, asked(ONE, *((n / 10, "a", 1.0) for n in range(10_000)))).run(told.append)
    assert told == [4096, 8192]
