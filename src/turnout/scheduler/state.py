"""What the decider knows, and the small steps by which it changes: admit, order, grant, forget.

Each step keeps the book in order and says its effect; whether to take it is decided in decide.py and room.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Literal

from turnout.core.memory import Demand, Device, Lease, Model
from turnout.scheduler.claims import Claim
from turnout.scheduler.learn import LearntSeconds
from turnout.scheduler.messages import (
    AdmitRequest,
    Effect,
    GrantLease,
    LeaseAsked,
    RefusalReason,
    RefuseLease,
    RefuseRequest,
    RequestArrived,
    ResizeWorker,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
    WorkerPhase,
)
from turnout.scheduler.pool import Pool
from turnout.scheduler.queue import Line, Waiter
from turnout.scheduler.settings import SchedulerSettings
from turnout.scheduler.worker import LINGER, MOVING, OPEN, STARTING, Run, Worker

NEVER = float("inf")
MOST_HOLDERS = 64
"""Of so many programs it is remembered how long they hold their leases."""
TimerKind = Literal["deadline", "expiry", "order", "idle"]


class Held:
    """One granted foreign lease."""

    __slots__ = ("expires_at", "lease", "since")

    def __init__(self, lease: Lease, since: float, expires_at: float) -> None:
        self.lease = lease
        self.since = since
        self.expires_at = expires_at


class State:
    """Workers, leases, who waits, and what is due when.

    Attributes:
        workers: By model.
        pool: The book.
        leases: Granted foreign leases by id.
        lease_lines: Who waits for a lease, by the devices that it names.
        waiting: Everybody who waits, by ticket or lease id.
        running: The worker of each admitted ticket.
        effects: What the present decision has come to.
        too_large: Why a model can never fit, or an empty string, by the line; worked out once.
        hold_seconds: How long foreign programs hold their leases, by their words for themselves.
        start_claims: Of models that are cold, by the line that they would be started for; made once.
        look_at: When time alone may change who gets room.
        is_unsettled: Something has happened that may change who gets room.
        is_blocked: Somebody waits for room, so that a worker that falls idle matters.
        has_new_limits: Somebody who waits may not fit any more, ever.
        is_short: Somebody waits for measured memory only, so that a measurement matters.
        is_stopping: Nothing new is granted any more.
    """

    def __init__(self, devices: Sequence[Device], models: Iterable[Model], settings: SchedulerSettings) -> None:
        self.settings = settings
        self.pool = Pool(devices, settings.reading_seconds)
        self.serial = frozenset(device.id for device in devices if device.kind != "ram")
        self.workers: dict[str, Worker] = {}
        self.leases: dict[str, Held] = {}
        self.lease_lines: dict[tuple[str, ...], Line] = {}
        self.waiting: dict[str, Waiter] = {}
        self.running: dict[str, Worker] = {}
        self.effects: list[Effect] = []
        self.look_at = NEVER
        self.too_large: dict[tuple[str, int], str] = {}
        self.hold_seconds: dict[str, LearntSeconds] = {}
        self.start_claims: dict[tuple[str, int], Claim] = {}
        self.is_unsettled = False
        self.is_blocked = False
        self.is_short = False
        self.is_stopping = False
        self.has_new_limits = False
        self._timers: list[tuple[float, int, TimerKind, str, int]] = []
        self._timer_count = 0
        self._next_order = 0
        for model in models:
            self.workers[model.name] = Worker(model, settings)

    # Time

    def look(self, at: float | None, now: float) -> None:
        """Have time alone lead to another round at a moment."""
        if at is not None and now < at < self.look_at:
            self.look_at = at

    def remind(self, at: float, kind: TimerKind, key: str, number: int = 0) -> None:
        """Have a moment come back in ``due``."""
        self._timer_count += 1
        if len(self._timers) > 4 * (len(self.waiting) + len(self.leases) + len(self.workers)) + 64:
            self._timers = [timer for timer in self._timers if self._still_matters(timer)]
            heapify(self._timers)
        heappush(self._timers, (at, self._timer_count, kind, key, number))

    def is_due(self, now: float) -> bool:
        """Whether a moment has come."""
        return self.look_at <= now or (bool(self._timers) and self._timers[0][0] <= now)

    def due(self, now: float) -> tuple[float, TimerKind, str, int] | None:
        """Take out and return the next moment that has come, or None."""
        if self._timers and self._timers[0][0] <= now:
            at, _, kind, key, number = heappop(self._timers)
            return at, kind, key, number
        return None

    def next_at(self) -> float:
        """Return when something is due; moments that have lost their meaning are thrown away on the way."""
        while self._timers and not self._still_matters(self._timers[0]):
            heappop(self._timers)
        return min(self.look_at, self._timers[0][0]) if self._timers else self.look_at

    def _still_matters(self, timer: tuple[float, int, TimerKind, str, int]) -> bool:
        at, _, kind, key, number = timer
        if kind == "deadline":
            return key in self.waiting and self.waiting[key].until == at
        if kind == "expiry":
            return key in self.leases and self.leases[key].expires_at == at
        if kind == "order":
            worker = self.workers.get(key)
            return worker is not None and worker.order_number == number and worker.phase in MOVING
        worker = self.workers.get(key)
        return worker is not None and worker.idle_look_at == at

    # Requests

    def line_up(self, waiter: Waiter, now: float) -> None:
        """Let somebody wait."""
        self.waiting[waiter.id] = waiter
        waiter.line.add(waiter, now)
        if waiter.until is not None:
            self.remind(waiter.until, "deadline", waiter.id)
        if isinstance(waiter.fact, RequestArrived):
            self.workers[waiter.fact.model].waiting += 1

    def step_out(self, waiter: Waiter) -> None:
        """Let somebody wait no longer."""
        del self.waiting[waiter.id]
        waiter.line.remove(waiter)
        if isinstance(waiter.fact, RequestArrived):
            self.workers[waiter.fact.model].waiting -= 1

    def admit(self, worker: Worker, now: float) -> None:
        """Admit as many as there are slots for, and as the gate lets through."""
        if worker.phase != "ready":
            return
        while worker.waiting and len(worker.running) < worker.slots:
            waiter = worker.head(now)
            if waiter is None:
                return
            fact = waiter.fact
            assert isinstance(fact, RequestArrived)
            del self.waiting[waiter.id]
            waiter.line.take(waiter, now)
            worker.waiting -= 1
            worker.running[fact.ticket] = Run(now, fact.expected_seconds)
            if fact.keep_seconds is not None:
                worker.keep(fact.keep_seconds)
            self.running[fact.ticket] = worker
            self.effects.append(AdmitRequest(ticket=fact.ticket, model=worker.name))

    def refuse(
        self, waiter: Waiter, reason: RefusalReason, message: str, retry_after_seconds: float | None = None
    ) -> None:
        """Refuse somebody who waits for a model."""
        self.step_out(waiter)
        self.effects.append(
            RefuseRequest(ticket=waiter.id, reason=reason, message=message, retry_after_seconds=retry_after_seconds)
        )

    def refuse_all(self, worker: Worker, reason: RefusalReason, message: str, retry: float | None = None) -> None:
        """Refuse everybody who waits for a model."""
        for line in worker.lines:
            for waiter in list(line):
                self.refuse(waiter, reason, message, retry)
        worker.short_since = None

    # Orders

    def start(self, worker: Worker, size: int, now: float) -> None:
        """Order a start from cold."""
        worker.set_size(size)
        worker.goal = size
        worker.cannot_sleep = worker.cannot_wake = worker.cannot_resize = False
        devices = worker.devices
        effect = StartWorker(
            model=worker.name, order=self._new_order(), size=worker.model.sizes[size].name, devices=devices
        )
        self._order(worker, "loading", effect, devices, now)
        worker.start_number = worker.order_number

    def wake(self, worker: Worker, now: float) -> None:
        """Order a sleeper to wake."""
        devices = worker.devices
        held = largest(devices, worker.sleeps_at.devices)
        self._order(
            worker, "waking", WakeWorker(model=worker.name, order=self._new_order(), devices=devices), held, now
        )

    def sleep(self, worker: Worker, level: int, reason: str, now: float) -> None:
        """Order a worker to sleep, or to sleep deeper."""
        worker.goal = level
        sleep = worker.model.sleep_levels[level]
        before = worker.sleeps_at.devices if worker.phase == "asleep" else worker.devices
        effect = SleepWorker(
            model=worker.name, order=self._new_order(), level=sleep.level, devices=sleep.devices, reason=reason
        )
        self._order(worker, "falling_asleep", effect, largest(before, sleep.devices), now)

    def has_room_to_sleep(self, worker: Worker, level: int, now: float) -> bool:
        """Whether there is room for what a sleeper keeps elsewhere (its weights in the machine's memory)."""
        before = self.pool.held(worker.holder)
        after = self.pool.charge(worker.model.sleep_levels[level].devices, is_beside=self.is_beside(worker))
        return all(
            amount - before.get(account, 0) <= max(0, self.pool.free(account, now)) for account, amount in after.items()
        )

    def resize(self, worker: Worker, size: int, reason: str, now: float) -> None:
        """Order a switch to another size."""
        worker.goal = size
        devices = worker.model.sizes[size].devices
        effect = ResizeWorker(
            model=worker.name,
            order=self._new_order(),
            size=worker.model.sizes[size].name,
            devices=devices,
            reason=reason,
        )
        self._order(worker, "resizing", effect, largest(worker.devices, devices), now)

    def stop(self, worker: Worker, reason: str, now: float) -> None:
        """Order a worker to stop. It holds what it holds until it is gone."""
        self._order(
            worker, "stopping", StopWorker(model=worker.name, order=self._new_order(), reason=reason), None, now
        )

    def _order(self, worker: Worker, phase: WorkerPhase, effect: Effect, held: Demand | None, now: float) -> None:
        if worker.phase == "ready":
            worker.left_at = now
        worker.before = worker.phase
        worker.phase = phase
        worker.order = effect
        worker.order_number = self._next_order
        worker.ordered_at = now
        worker.gate = OPEN
        worker.gated_for = None
        if held is not None:
            self.pool.hold(worker.holder, held, is_beside=self.is_beside(worker))
        self._expect_end(worker, now)
        self.effects.append(effect)
        if worker.is_pinned and phase in STARTING:
            self.set_limits()  # nobody can take from it what it has from now on

    def _new_order(self) -> int:
        self._next_order += 1
        return self._next_order

    def repeat_order(self, worker: Worker, now: float) -> None:
        """Order again what has not ended: whoever carries orders out may have missed it, or its end."""
        assert worker.order is not None
        self.effects.append(worker.order)
        self._expect_end(worker, now)

    def _expect_end(self, worker: Worker, now: float) -> None:
        seconds = self.settings.order_seconds
        if worker.phase == "loading":
            seconds = max(self.settings.start_seconds, 4 * worker.load_seconds())
        self.remind(now + seconds, "order", worker.name, worker.order_number)

    def is_beside(self, worker: Worker) -> bool:
        """Whether a worker has to leave the room for voice alone."""
        return not worker.is_voice and not worker.is_exempt

    # Leases

    def line_for(self, devices: Demand) -> Line:
        """Return the line of leases over the same devices."""
        key = tuple(sorted(devices))
        line = self.lease_lines.get(key)
        if line is None:
            line = self.lease_lines[key] = Line(self.settings.aging_seconds)
        return line

    def grant(self, waiter: Waiter, now: float) -> None:
        """Grant a lease to whoever waits for it."""
        fact = waiter.fact
        assert isinstance(fact, LeaseAsked)
        del self.waiting[waiter.id]
        waiter.line.take(waiter, now)
        self.hold_lease(fact.lease, now, now + fact.ttl_seconds)
        self.effects.append(GrantLease(id=waiter.id, ttl_seconds=fact.ttl_seconds))

    def refuse_lease(self, waiter: Waiter, message: str, expected_wait_seconds: float | None = None) -> None:
        """Refuse a lease that was waited for."""
        position = waiter.line.ahead_of(waiter) + 1
        self.step_out(waiter)
        self.effects.append(
            RefuseLease(id=waiter.id, position=position, message=message, expected_wait_seconds=expected_wait_seconds)
        )

    def hold_lease(self, lease: Lease, now: float, expires_at: float) -> None:
        """Write a lease down, whatever room there is."""
        self.leases[lease.id] = Held(lease, now, expires_at)
        self.pool.hold(("lease", lease.id), lease.devices, is_beside=lease.lease_class != "voice")
        self.remind(expires_at, "expiry", lease.id)

    def end_lease(self, id_: str, now: float) -> None:
        """Strike a lease out, and learn how long such programs hold one."""
        held = self.leases.pop(id_)
        self.pool.release(("lease", id_))
        self.is_unsettled = True
        learnt = self.hold_seconds.pop(held.lease.holder, None) or LearntSeconds(0.0)
        learnt.learn(now - held.since)
        self.hold_seconds[held.lease.holder] = learnt
        if len(self.hold_seconds) > MOST_HOLDERS:
            del self.hold_seconds[next(iter(self.hold_seconds))]

    def lease_rest_seconds(self, held: Held, now: float) -> float | None:
        """Return how much longer a program is likely to hold its lease; None if nobody knows such programs."""
        learnt = self.hold_seconds.get(held.lease.holder)
        if learnt is None or not learnt.is_learnt:
            return None
        elapsed = now - held.since
        return min(max(learnt.seconds - elapsed, LINGER * elapsed), held.expires_at - now)

    # Limits

    def set_limits(self) -> None:
        """Work out the room for voice and who may use it, after models or pinned workers have changed."""
        room: Demand = {}
        for worker in self.workers.values():
            if self.settings.voice_slot and worker.is_voice and not worker.is_removed:
                for size in reversed(worker.model.sizes[: worker.model.preferred_size + 1]):
                    if self._can_hold(size.devices, {}, None):
                        room = largest(room, size.devices)
                        break
        self.start_claims.clear()
        for worker in self.workers.values():
            worker.start_claim = None
        self.too_large.clear()
        if room != self.pool.set_aside:
            self.pool.set_voice_room(room)
        for worker in self.workers.values():
            may = worker.model.lease_class in {"resident", "elastic", "pinned"}
            is_exempt = may and not any(
                self._can_hold(size.devices, self.pool.set_aside, worker) for size in worker.model.sizes
            )
            if is_exempt != worker.is_exempt:
                worker.is_exempt = is_exempt
                held = self.pool.held(worker.holder)
                if held:
                    devices = {device: amount for device, amount in held.items() if device in self.pool.devices}
                    self.pool.hold(worker.holder, devices, is_beside=self.is_beside(worker))
        self.is_unsettled = True
        self.has_new_limits = True

    def _can_hold(self, devices: Demand, set_aside: Demand, worker: Worker | None) -> bool:
        return all(
            amount <= self.pool.capacity(device) - set_aside.get(device, 0) - self.pinned(device, worker)
            for device, amount in devices.items()
        )

    def can_ever_hold(self, devices: Demand, worker: Worker | None, *, is_voice: bool) -> bool:
        """Whether a demand fits once everybody who can be moved has been moved.

        Args:
            devices: Bytes by device.
            worker: Whose it is; None for a foreign lease.
            is_voice: Whether it may use the room for voice.
        """
        set_aside = {} if is_voice or (worker is not None and worker.is_exempt) else self.pool.set_aside
        return all(amount >= 0 for amount in devices.values()) and self._can_hold(devices, set_aside, worker)

    def pinned(self, device: str, but: Worker | None) -> int:
        """Return what pinned workers hold of a device, but for one."""
        return sum(
            self.pool.held(worker.holder).get(device, 0)
            for worker in self.workers.values()
            if worker.is_pinned and worker is not but
        )


def largest(one: Demand, other: Demand) -> Demand:
    """Return the greater of two demands, device by device."""
    return {device: max(one.get(device, 0), other.get(device, 0)) for device in one | other}
