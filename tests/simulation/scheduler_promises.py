"""What any scheduler owes the world, whatever goes wrong in it; see ``scheduler_world.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.scheduler_cast import (
    CALLERS,
    FAULT_SECONDS,
    HOLD_MOST_SECONDS,
    RUN_MOST_SECONDS,
    SETTINGS,
    models,
)
from turnout.core.memory import GIB, PRIORITIES, Demand, Priority
from turnout.scheduler import messages as m

if TYPE_CHECKING:
    from simulation.scheduler_world import World


class Violation(AssertionError):
    """A promise was broken. The first word says which."""


Order = m.StartWorker | m.StopWorker | m.SleepWorker | m.WakeWorker | m.ResizeWorker


class Place:
    """One model's worker as it really is."""

    def __init__(self) -> None:
        self.phase: m.WorkerPhase = "cold"
        self.before: m.WorkerPhase = "cold"
        self.held: Demand = {}
        self.after: Demand = {}
        self.before_held: Demand = {}
        self.size = ""
        self.order: Order | None = None
        self.number = 0
        self.ordered_at = 0.0
        self.asked_at = 0.0  # the last time
        self.answer: m.Fact | None = None  # the end of the order, if it has ended and nobody has heard of it
        self.is_silent = False  # nobody will hear of it until the order is given again
        self.running: dict[str, float] = {}
        self.ready_at = 0.0
        self.has_failed = False
        self.is_unwanted = False  # removed, replaced, unloading: it may be stopped although it is pinned or fresh
        self.is_unloading = False
        self.keep: float | None = None  # what the last request that was admitted and said so wants
        self.idle_since = 0.0


class Waiting:
    """One ticket or lease that waits."""

    def __init__(self, fact: m.RequestArrived | m.LeaseAsked, since: float, ahead: int, faults: int) -> None:
        self.fact = fact
        self.since = since
        self.ahead = ahead
        self.faults = faults

    @property
    def priority(self) -> Priority:
        return self.fact.priority if isinstance(self.fact, m.RequestArrived) else self.fact.lease.priority


class Promises:
    """What must hold, checked against the world after every effect and every fact.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def check(self, holds: bool, promise: str, words: str) -> None:
        """Raise unless a promise holds."""
        if not holds:
            raise Violation(f"{promise}: {words} (at {self.world.now:.1f})")

    # Effects

    def take(self, effect: m.Effect, adopts: str = "") -> None:
        """Check an effect, and let it happen."""
        match effect:
            case m.AdmitRequest():
                self._admit(effect)
            case m.RefuseRequest():
                self._refuse(effect)
            case m.GrantLease():
                self._grant(effect)
            case m.RefuseLease():
                waiting = self.world.waiting.pop(effect.id, None)
                self.check(waiting is not None, "twice", f"{effect.id} does not wait and is refused")
                self.check(effect.position >= 1 and bool(effect.message), "words", f"{effect}")
            case m.EndLease():
                self._end_lease(effect, adopts)
            case m.StartWorker() | m.StopWorker() | m.SleepWorker() | m.WakeWorker() | m.ResizeWorker():
                self._order(effect)
            case _:
                raise Violation(f"words: {effect}")

    def _admit(self, effect: m.AdmitRequest) -> None:
        world = self.world
        waiting = world.waiting.pop(effect.ticket, None)
        self.check(waiting is not None, "twice", f"{effect.ticket} does not wait and is admitted")
        assert waiting is not None
        fact = waiting.fact
        assert isinstance(fact, m.RequestArrived)
        place, model = world.places[fact.model], world.models[fact.model]
        self.check(effect.model == fact.model, "words", f"{effect}")
        self.check(place.phase == "ready" and place.order is None, "not ready", f"{effect} to a {place.phase} worker")
        self.check(model.slots is None or len(place.running) < model.slots, "slots", f"{effect} is one too many")
        self.check(fact.deadline is None or world.now < fact.deadline, "hangs", f"{effect} comes after its deadline")
        self.check(fact.least_quality <= self._quality(fact.model), "quality", f"{effect} to size {place.size}")
        self.check(not place.is_unloading, "unloading", f"{effect} to a worker that somebody wants to end")
        self._in_time(waiting)
        if fact.keep_seconds is not None:
            place.keep = fact.keep_seconds
        place.running[effect.ticket] = world.now
        world.running[effect.ticket] = fact.model

    def _refuse(self, effect: m.RefuseRequest) -> None:
        world = self.world
        waiting = world.waiting.pop(effect.ticket, None)
        self.check(waiting is not None, "twice", f"{effect.ticket} does not wait and is refused")
        assert waiting is not None
        fact = waiting.fact
        assert isinstance(fact, m.RequestArrived)
        self.check(bool(effect.message), "words", f"{effect}")
        self.check((effect.retry_after_seconds or 0) >= 0, "words", f"{effect}")
        if effect.reason == "deadline":
            self.check(fact.deadline is not None and fact.deadline <= world.now, "words", f"{effect} before it")
        if effect.reason == "removed":
            self.check(fact.model not in world.models, "words", f"{effect} although it is there")
        if effect.reason == "stopping":
            self.check(world.is_stopping, "words", f"{effect} although it is not")

    def _grant(self, effect: m.GrantLease) -> None:
        world = self.world
        waiting = world.waiting.pop(effect.id, None)
        self.check(waiting is not None, "twice", f"{effect.id} does not wait and is granted")
        assert waiting is not None
        fact = waiting.fact
        assert isinstance(fact, m.LeaseAsked)
        world.leases[effect.id] = fact.lease, world.now + effect.ttl_seconds, world.now + HOLD_MOST_SECONDS
        self._fits(effect.id, {}, fact.lease.devices, f"{effect}")

    def _end_lease(self, effect: m.EndLease, adopts: str) -> None:
        world = self.world
        if effect.id == adopts and effect.id not in world.leases:
            return  # it expired while there was no daemon
        held = world.leases.pop(effect.id, None)
        self.check(held is not None, "twice", f"{effect.id} is not held and ends")
        assert held is not None
        self.check(held[1] <= world.now, "taken away", f"{effect} before its expiry at {held[1]:.1f}")

    def _order(self, effect: Order) -> None:
        world = self.world
        place = world.places[effect.model]
        if place.order is not None:
            is_again = place.order == effect and world.now >= place.asked_at + SETTINGS.order_seconds - 1e-6
            self.check(is_again, "orders", f"{effect} while {place.order} is under way")
            place.asked_at = world.now
            if place.is_silent:
                place.is_silent = False
                place.ordered_at = world.now
            return
        before = place.held
        name = effect.model
        if isinstance(effect, m.StartWorker):
            self.check(place.phase == "cold" and name in world.models, "orders", f"{effect} of a {place.phase} one")
            size = next(size for size in world.models[name].sizes if size.name == effect.size)
            self.check(size.devices == effect.devices, "orders", f"{effect} is not {size}")
            place.phase, place.held, place.after, place.size = "loading", effect.devices, effect.devices, effect.size
        elif isinstance(effect, m.WakeWorker):
            self.check(place.phase == "asleep", "orders", f"{effect} of a {place.phase} one")
            place.before, place.before_held, place.phase = "asleep", place.held, "waking"
            place.after, place.held = effect.devices, larger(place.held, effect.devices)
        else:
            self._may_be_moved(effect, place)
            place.before, place.before_held = place.phase, place.held
            if isinstance(effect, m.StopWorker):
                place.phase = "stopping"
            else:
                place.phase = "falling_asleep" if isinstance(effect, m.SleepWorker) else "resizing"
                place.after, place.held = effect.devices, larger(place.held, effect.devices)
        place.order, place.number, place.ordered_at, place.is_silent = effect, effect.order, world.now, False
        place.asked_at = world.now
        self._fits(name, before, place.held, f"{effect}")

    def _may_be_moved(self, effect: m.StopWorker | m.SleepWorker | m.ResizeWorker, place: Place) -> None:
        world = self.world
        self.check(place.phase in {"ready", "asleep"}, "orders", f"{effect} of a {place.phase} one")
        self.check(not place.running, "running", f"{effect} under {list(place.running)}")
        if place.is_unwanted:
            return
        model = world.models[effect.model]
        is_growth = any(  # it makes way for its own, larger self, or for a fresh one where it cannot be woken
            isinstance(other.fact, m.RequestArrived)
            and other.fact.model == effect.model
            and (other.fact.least_quality > self._quality(effect.model) or place.phase == "asleep")
            for other in world.waiting.values()
        )
        self.check(model.lease_class != "pinned" or is_growth, "pinned", f"{effect}")
        idle_seconds = model.idle_seconds if place.keep is None else place.keep
        idle = world.now - place.idle_since
        is_idle_too_long = idle_seconds is not None and 0 <= idle_seconds <= idle + 1e-6
        self.check(bool(world.waiting) or is_idle_too_long, "kept", f"{effect} for nobody, idle for {idle:.1f} s")
        if is_idle_too_long:
            return
        if place.phase == "ready" and not is_growth and world.now < place.ready_at + model.min_residency_seconds:
            normal_after = 2 * SETTINGS.aging_seconds  # so long before its bound everybody is at least normal
            is_forced = any(
                world.now - other.since >= bound_of_age(other.priority) - normal_after - 1e-6
                for other in world.waiting.values()
            )
            self.check(is_forced, "residency", f"{effect} of one that is ready since {place.ready_at:.1f}")

    def _quality(self, name: str) -> int:
        size = self.world.places[name].size
        return next((other.quality for other in self.world.models[name].sizes if other.name == size), 0)

    def _fits(self, name: str, before: Demand, after: Demand, words: str) -> None:
        """What a holder has been given fits: by the book, and by what was measured last, before it was given."""
        for id_, amount in after.items():
            more = amount - before.get(id_, 0)
            if more <= 0:
                continue
            device = self.world.devices[id_]
            capacity = device.total_bytes - device.headroom_bytes
            held = self._held(id_)
            self.check(sum(held.values()) <= capacity, "granted", f"{words}: {in_gib(held)} on {id_}")
            reading, at = self.world.readings.get(id_, (None, 0.0))
            if reading is not None and self.world.now < at + SETTINGS.reading_seconds:
                held = {other: bytes_ for other, bytes_ in held.items() if other != name}
                if id_ in before:
                    held[name] = before[id_]
                use = sum(max(bytes_, reading.by_holder.get(other, 0)) for other, bytes_ in held.items())
                known = sum(reading.by_holder.get(other, bytes_) for other, bytes_ in held.items())
                nobody = max(0, reading.used_bytes - known)
                self.check(use + nobody + more <= capacity, "measured", f"{words}: {in_gib(held)} and {reading}")

    def _held(self, device: str) -> Demand:
        held = {name: place.held[device] for name, place in self.world.places.items() if place.held.get(device)}
        for id_, (lease, _, _) in self.world.leases.items():
            if lease.devices.get(device):
                held[id_] = lease.devices[device]
        return held

    # What can be seen

    def look(self) -> None:
        """Compare what the scheduler shows with the world."""
        world = self.world
        view = world.scheduler.view(world.now)
        shown = [waiting.id for waiting in view.waiting]
        self.check(sorted(shown) == sorted(world.waiting), "lost", f"{shown} are shown, {list(world.waiting)} wait")
        for entry in view.waiting:
            expected = entry.expected_wait_seconds
            self.check(entry.position >= 1 and (expected is None or expected >= 0), "words", f"{entry}")
        self.check(
            [lease.id for lease in view.leases] == list(world.leases),
            "leases",
            f"{[lease.id for lease in view.leases]} are shown, {list(world.leases)} hold",
        )
        for lease, expiry, _ in world.leases.values():
            self.check(expiry > world.now, "leases", f"{lease.id} still holds, and expired at {expiry:.1f}")
        self._look_at_workers(view)
        self._look_at_devices(view)
        for id_, waiting in world.waiting.items():
            fact = waiting.fact
            until = fact.deadline if isinstance(fact, m.RequestArrived) else fact.wait_until
            self.check(until is None or until > world.now, "hangs", f"{id_} waits beyond its deadline")
            self._in_time(waiting)
        self._look_for_a_stall()

    def _look_at_workers(self, view: m.View) -> None:
        for worker in view.workers:
            place = self.world.places[worker.model]
            running = len(place.running)
            self.check(worker.running == running, "running", f"{worker} runs {running} in truth")
            if place.answer is None:
                phase = "cold" if worker.phase == "failed" else worker.phase
                self.check(phase == place.phase, "phases", f"{worker} is {place.phase} in truth")
            if place.is_unloading and place.order is None and not self.world.is_stopping:
                self.check(bool(running), "unloading", f"{worker} has nothing to do and does not end")
            learnt = worker.load_seconds >= 0 and (worker.wake_seconds or 0) >= 0
            self.check(learnt, "learnt", f"{worker}")

    def _look_at_devices(self, view: m.View) -> None:
        has_silent = any(place.answer is not None for place in self.world.places.values())
        for entry in view.devices:
            id_ = entry.device.id
            held = sum(self._held(id_).values())
            is_right = entry.granted_bytes >= held if has_silent else entry.granted_bytes == held
            self.check(is_right, "book", f"{entry.granted_bytes} are written down on {id_}, {held} are held")
            capacity = entry.device.total_bytes - entry.device.headroom_bytes
            self.check(entry.free_bytes <= max(0, capacity - held), "free", f"{entry}")

    def _look_for_a_stall(self) -> None:
        world = self.world
        if world.waiting and world.scheduler.next_at() is None:
            is_busy = world.running or world.leases or any(place.order for place in world.places.values())
            self.check(bool(is_busy), "stalls", f"{list(world.waiting)} wait, and nothing will ever happen")

    def _in_time(self, waiting: Waiting) -> None:
        waited = self.world.now - waiting.since
        bound = wait_bound(waiting) + (self.world.faults - waiting.faults) * FAULT_SECONDS
        self.check(waited <= bound, "late", f"{waiting.fact} waited {waited:.0f} s, at most {bound:.0f} s are promised")


def bound_of_age(priority: Priority) -> float:
    """After how many seconds somebody is overdue."""
    return (PRIORITIES.index(priority) + 1) * SETTINGS.aging_seconds


def wait_bound(waiting: Waiting) -> float:
    """How long anybody waits at most, by the formula of scheduler/design.md, without faults."""
    lanes = 3 * CALLERS
    claims = len(models()) + 3 * lanes
    residency = evicted = started = RUN_MOST_SECONDS  # no order takes longer
    held = max(RUN_MOST_SECONDS, HOLD_MOST_SECONDS)
    patience = SETTINGS.patience_steps * SETTINGS.aging_seconds
    turns = 2 * lanes * (waiting.ahead + 1)  # of one slot
    return bound_of_age(waiting.priority) + turns * claims * (patience + residency + held + 2 * evicted + 2 * started)


def larger(one: Demand, other: Demand) -> Demand:
    """The greater of two demands, device by device."""
    return {device: max(one.get(device, 0), other.get(device, 0)) for device in [*one, *other]}


def in_gib(held: Demand) -> dict[str, float]:
    """Bytes for people."""
    return {name: round(amount / GIB, 2) for name, amount in held.items()}
