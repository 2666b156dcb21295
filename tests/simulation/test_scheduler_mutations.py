"""Deliberate defects of the decider, each with a name: the promises must notice every one of them.

A test that cannot fail shows nothing. So here the decider is broken in one place at a time, and the world (or a story
about a bound) has to find out which promise that breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simulation import scheduler_bounds as bounds
from simulation.scheduler_chance import Chance
from simulation.scheduler_promises import Violation
from simulation.scheduler_world import World
from turnout.core.memory import Demand
from turnout.scheduler import claims, lifecycle
from turnout.scheduler import messages as m
from turnout.scheduler.decide import Decider
from turnout.scheduler.learn import LearntSeconds
from turnout.scheduler.moves import Movable
from turnout.scheduler.pool import Pool
from turnout.scheduler.queue import NEVER, Line, Waiter
from turnout.scheduler.reserve import Reserve
from turnout.scheduler.room import Round
from turnout.scheduler.state import State, TimerKind
from turnout.scheduler.worker import STARTING, Worker

Patch = pytest.MonkeyPatch
SEEDS = 12
STEPS = 1500
HUNTED = (Violation, KeyError, AssertionError)
"""A defect may also be noticed by the decider itself."""


# Defects that break a promise about rights


def evicts_running(patch: Patch) -> None:
    patch.setattr(Movable, "_has_work", lambda self, worker, claim: False)


def evicts_pinned(patch: Patch) -> None:
    made = Movable.__init__

    def init(self: Movable, state: State, reserve: Reserve, now: float) -> None:
        made(self, state, reserve, now)
        self._workers += [w for w in state.workers.values() if w.is_pinned and w.phase in {"ready", "asleep"}]
        self.most = self._most_idle = self._sum(self._workers)

    patch.setattr(Movable, "__init__", init)


def grants_without_book(patch: Patch) -> None:
    patch.setattr(Reserve, "fits", lambda self, charge, *, is_fixed: True)
    patch.setattr(Reserve, "fits_by_book", lambda self, charge, *, is_fixed: True)


def grants_in_parts(patch: Patch) -> None:
    def first(charge: Demand) -> Demand:
        return dict(list(charge.items())[:1])

    fits, by_book = Reserve.fits, Reserve.fits_by_book
    patch.setattr(Reserve, "fits", lambda self, charge, *, is_fixed: fits(self, first(charge), is_fixed=is_fixed))
    patch.setattr(
        Reserve, "fits_by_book", lambda self, charge, *, is_fixed: by_book(self, first(charge), is_fixed=is_fixed)
    )


def ignores_measurements(patch: Patch) -> None:
    patch.setattr(Pool, "free", lambda self, account, now: self.free_by_book(account))


def lets_measurements_allow(patch: Patch) -> None:
    def free(self: Pool, account: str, now: float) -> int:
        reading = self.reading(account, now)
        return self.free_by_book(account) if reading is None else self.capacity(account) - reading.used_bytes

    patch.setattr(Pool, "free", free)
    patch.setattr(Reserve, "fits_by_book", Reserve.fits)


def frees_when_it_orders_a_stop(patch: Patch) -> None:
    stop = State.stop

    def and_frees(self: State, worker: Worker, reason: str, now: float) -> None:
        stop(self, worker, reason, now)
        self.pool.release(worker.holder)

    patch.setattr(State, "stop", and_frees)


def forgets_what_sleepers_hold(patch: Patch) -> None:
    settled_in = lifecycle._settled_in

    def and_forgets(state: State, worker: Worker, phase: m.WorkerPhase, now: float) -> None:
        settled_in(state, worker, phase, now)
        if phase == "asleep":
            state.pool.release(worker.holder)

    patch.setattr(lifecycle, "_settled_in", and_forgets)


def forgets_a_lease_over_two_devices(patch: Patch) -> None:
    hold = Pool.hold

    def partly(self: Pool, holder: tuple[str, str], devices: Demand, *, is_beside: bool) -> None:
        hold(self, holder, dict(list(devices.items())[:1]), is_beside=is_beside)

    patch.setattr(Pool, "hold", partly)


def takes_leases_away(patch: Patch) -> None:
    hold = State.hold_lease

    def shorter(self: State, lease: Any, now: float, expires_at: float) -> None:
        hold(self, lease, now, expires_at - 0.5)

    patch.setattr(State, "hold_lease", shorter)


def forgets_residency(patch: Patch) -> None:
    patch.setattr(Worker, "stays_until", lambda self, *, is_idle: 0.0)


def unloads_under_running(patch: Patch) -> None:
    def at_once(state: State, fact: m.UnloadAsked, now: float) -> None:
        worker = state.workers.get(fact.model)
        if worker is not None and worker.phase in {"ready", "asleep"}:
            state.stop(worker, "now", now)

    patch.setattr(lifecycle, "unload_asked", at_once)


def forgets_to_unload(patch: Patch) -> None:
    patch.setattr(lifecycle, "unload_asked", lambda state, fact, now: None)


def puts_away_what_is_kept(patch: Patch) -> None:
    def forgetful(self: Worker, seconds: float | None) -> None:
        self.idle_seconds = self.model.idle_seconds or 3.0

    patch.setattr(Worker, "keep", forgetful)


# Defects that lose or double something


class _Told(Decider):
    """A decider whose effects are spoilt on their way out."""

    def decide(self, fact: m.Fact, now: float) -> list[m.Effect]:
        return list(self.spoil(super().decide(fact, now)))

    def spoil(self, effects: list[m.Effect]) -> Iterator[m.Effect]:
        raise NotImplementedError


class _AdmitsTwice(_Told):
    def spoil(self, effects: list[m.Effect]) -> Iterator[m.Effect]:
        for effect in effects:
            yield effect
            if isinstance(effect, m.AdmitRequest):
                yield effect


class _GrantsTwice(_Told):
    def spoil(self, effects: list[m.Effect]) -> Iterator[m.Effect]:
        for effect in effects:
            yield effect
            if isinstance(effect, m.GrantLease):
                yield effect


class _LosesRefusals(_Told):
    def spoil(self, effects: list[m.Effect]) -> Iterator[m.Effect]:
        return (effect for effect in effects if not isinstance(effect, m.RefuseRequest))


class _LosesOrders(_Told):
    def spoil(self, effects: list[m.Effect]) -> Iterator[m.Effect]:
        return (effect for effect in effects if not isinstance(effect, m.StopWorker))


def _without_timers(*kinds: TimerKind) -> Callable[[Patch], None]:
    def defect(patch: Patch) -> None:
        remind = State.remind

        def forgetful(self: State, at: float, kind: TimerKind, key: str, number: int = 0) -> None:
            if kind not in kinds:
                remind(self, at, kind, key, number)

        patch.setattr(State, "remind", forgetful)

    return defect


def takes_doubled_facts(patch: Patch) -> None:
    patch.setattr(lifecycle, "_worker_of", lambda state, fact: state.workers.get(fact.model))


def believes_in_a_worker_that_is_not_there(patch: Patch) -> None:
    patch.setattr(lifecycle, "STARTING", STARTING | {"cold", "asleep"})


def ignores_slots(patch: Patch) -> None:
    set_model = Worker.set_model

    def endless(self: Worker, model: Any) -> None:
        set_model(self, model)
        self.slots = float("inf")

    patch.setattr(Worker, "set_model", endless)


def ignores_quality(patch: Patch) -> None:
    patch.setattr(Worker, "least_size", lambda self, least_quality: 0)


def learns_anything(patch: Patch) -> None:
    patch.setattr(LearntSeconds, "learn", lambda self, seconds: self._samples.append(seconds))


def starts_a_second_worker(patch: Patch) -> None:
    start = State.start

    def twice(self: State, worker: Worker, size: int, now: float) -> None:
        start(self, worker, size, now)
        start(self, worker, size, now)

    patch.setattr(State, "start", twice)


def forgets_who_waits_behind_a_lease_that_left(patch: Patch) -> None:
    patch.setattr(Round, "run", lambda self: setattr(self.state, "is_unsettled", False))


Defect = Callable[[Patch], None]
DEFECTS: dict[str, tuple[Defect, set[str]]] = {
    "evicts_running": (evicts_running, {"running"}),
    "evicts_pinned": (evicts_pinned, {"pinned"}),
    "grants_without_book": (grants_without_book, {"granted"}),
    "grants_in_parts": (grants_in_parts, {"granted"}),
    "ignores_measurements": (ignores_measurements, {"measured"}),
    "lets_measurements_allow": (lets_measurements_allow, {"granted", "free"}),
    "frees_when_it_orders_a_stop": (frees_when_it_orders_a_stop, {"granted", "book"}),
    "forgets_what_sleepers_hold": (forgets_what_sleepers_hold, {"granted", "book"}),
    "forgets_a_lease_over_two_devices": (forgets_a_lease_over_two_devices, {"granted", "book"}),
    "takes_leases_away": (takes_leases_away, {"taken away"}),
    "forgets_residency": (forgets_residency, {"residency"}),
    "unloads_under_running": (unloads_under_running, {"running", "unloading"}),
    "forgets_to_unload": (forgets_to_unload, {"unloading"}),
    "puts_away_what_is_kept": (puts_away_what_is_kept, {"kept", "pinned"}),
    "forgets_deadlines": (_without_timers("deadline"), {"hangs"}),
    "forgets_expiry": (_without_timers("expiry"), {"leases", "hangs", "stalls"}),
    "forgets_to_order_again": (_without_timers("order"), {"hangs", "stalls"}),
    "takes_doubled_facts": (takes_doubled_facts, {"orders", "book", "phases", "granted", "not ready"}),
    "believes_in_a_worker_that_is_not_there": (
        believes_in_a_worker_that_is_not_there,
        {"orders", "phases", "book", "not ready"},
    ),
    "ignores_slots": (ignores_slots, {"slots"}),
    "ignores_quality": (ignores_quality, {"quality"}),
    "learns_anything": (learns_anything, {"learnt", "words"}),
    "starts_a_second_worker": (starts_a_second_worker, {"orders"}),
    "never_settles": (forgets_who_waits_behind_a_lease_that_left, {"hangs", "stalls", "phases"}),
}
SPOILT: dict[str, tuple[type[Decider], set[str]]] = {
    "admits_twice": (_AdmitsTwice, {"twice"}),
    "grants_twice": (_GrantsTwice, {"twice"}),
    "loses_refusals": (_LosesRefusals, {"lost"}),
    "loses_orders": (_LosesOrders, {"phases", "book"}),
}


def hunt(make: type[Decider]) -> str:
    """Return the first broken promise, or an empty string."""
    for seed in range(SEEDS):
        world = World(make)
        try:
            Chance(world, seed).steps(STEPS)
            world.settle()
        except Violation as found:
            return str(found)
    return ""


@pytest.mark.parametrize("name", DEFECTS)
def test_the_world_notices_the_defect(name: str, monkeypatch: Patch) -> None:
    defect, promises = DEFECTS[name]
    defect(monkeypatch)
    found = hunt(Decider)
    assert found.split(":")[0] in promises, found


@pytest.mark.parametrize("name", SPOILT)
def test_the_world_notices_what_is_lost_or_doubled(name: str) -> None:
    spoilt, promises = SPOILT[name]
    found = hunt(spoilt)
    assert found.split(":")[0] in promises, found


# Defects that break a bound


def forgets_aging(patch: Patch) -> None:
    patch.setattr(Line, "age", lambda self, now: None)
    patch.setattr(Line, "standing", lambda self: (*self.urgency(), NEVER))


def gives_the_overdue_no_turn(patch: Patch) -> None:
    head = Line.head

    def regular_first(self: Line, lowest: int = 2) -> Waiter | None:
        self._is_turn_of_overdue = False
        return head(self, lowest)

    patch.setattr(Line, "head", regular_first)


def gives_the_overdue_every_turn(patch: Patch) -> None:
    head = Line.head

    def overdue_first(self: Line, lowest: int = 2) -> Waiter | None:
        self._is_turn_of_overdue = True
        return head(self, lowest)

    patch.setattr(Line, "head", overdue_first)


def forgets_who_asked(patch: Patch) -> None:
    made = Waiter.__init__

    def init(self: Waiter, *arguments: Any, **words: Any) -> None:
        made(self, *arguments, **words | {"caller": ""})
        self.lane = ("", 0)

    patch.setattr(Waiter, "__init__", init)


def never_closes_a_gate(patch: Patch) -> None:
    patch.setattr(Round, "_close", lambda self, names, claim: None)


def swaps_without_residency(patch: Patch) -> None:
    patch.setattr(Worker, "stays_until", lambda self, *, is_idle: 0.0)
    line = Line.__init__
    patch.setattr(Line, "__init__", lambda self, aging_seconds: line(self, 1.0))


def has_no_voice_slot(patch: Patch) -> None:
    patch.setattr(Pool, "set_voice_room", lambda self, devices, real=Pool.set_voice_room: real(self, {}))


def puts_voice_before_everybody(patch: Patch) -> None:
    patch.setattr(claims, "_urgency", lambda claim: (not claim.is_voice, claim.level, claim.since))


def forgets_when_a_lane_was_served(patch: Patch) -> None:
    take = Line.take

    def forgetful(self: Line, waiter: Waiter, now: float) -> None:
        take(self, waiter, float("-inf"))

    patch.setattr(Line, "take", forgetful)


LATE: dict[str, tuple[Defect, Callable[[], None]]] = {
    "forgets_aging": (forgets_aging, bounds.a_background_request_is_served_in_time),
    "forgets_aging_within_a_model": (forgets_aging, bounds.a_low_request_for_a_busy_model_is_served_in_time),
    "gives_the_overdue_no_turn": (
        gives_the_overdue_no_turn,
        bounds.a_low_request_for_a_busy_model_is_served_in_time,
    ),
    "gives_the_overdue_every_turn": (gives_the_overdue_every_turn, bounds.a_script_does_not_crowd_out_a_person),
    "forgets_who_asked": (forgets_who_asked, bounds.a_script_does_not_crowd_out_a_person),
    "never_closes_a_gate": (never_closes_a_gate, bounds.a_background_request_is_served_in_time),
    "swaps_without_residency": (swaps_without_residency, bounds.models_take_turns_without_loading_all_the_time),
    "has_no_voice_slot": (has_no_voice_slot, bounds.voice_starts_although_jobs_fill_the_card),
    "puts_voice_before_everybody": (puts_voice_before_everybody, bounds.a_flood_of_voice_starves_nobody),
    "forgets_when_a_lane_was_served": (
        forgets_when_a_lane_was_served,
        bounds.an_urgent_lease_does_not_wait_for_a_flood_of_old_ones,
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_the_bound_notices_the_defect(name: str, monkeypatch: Patch) -> None:
    defect, story = LATE[name]
    defect(monkeypatch)
    with pytest.raises(AssertionError):
        story()
