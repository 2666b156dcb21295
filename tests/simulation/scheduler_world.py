"""A world for a scheduler, with everything that can go wrong in it, and what must hold whatever goes wrong.

The world keeps books of its own from the effects alone. It knows nothing of how a scheduler decides: each check would
hold for any scheduler that keeps the promises of ``scheduler/design.md``. Whoever drives it (a Hypothesis machine, a
seeded loop) chooses what happens; the world says what that means, and raises ``Violation`` when a promise is broken.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

import msgspec

from simulation.scheduler_cast import RUN_MOST_SECONDS, SETTINGS, devices, models
from simulation.scheduler_promises import Place, Promises, Violation, Waiting
from turnout.core.memory import GIB, Demand, Device, Lease, LeaseClass, Model, Priority, Size
from turnout.scheduler import messages as m
from turnout.scheduler.settings import SchedulerSettings

ENDS = (
    m.WorkerReady | m.WorkerAsleep | m.WorkerGone | m.OrderFailed | m.RequestFinished | m.RequestLeft | m.LeaseReleased
)
Make = Callable[[Sequence[Device], Sequence[Model], SchedulerSettings], m.Scheduler]
"""Makes a scheduler."""


class World:
    """The world.

    Args:
        make: Makes the scheduler under test.
        look_every: After so many facts everything that can be seen is compared.
    """

    def __init__(self, make: Make, look_every: int = 1) -> None:
        self.now = 1000.0
        self.devices = {device.id: device for device in devices()}
        self.models = {model.name: model for model in models()}
        self.all_models = models()
        self.counts: Counter[str] = Counter()
        self.faults = 0
        self._make = make
        self._number = 0
        self._ghost: Demand = {}
        self.scheduler = make(tuple(self.devices.values()), tuple(self.models.values()), SETTINGS)
        self.promises = Promises(self)
        self._ends: deque[m.Fact] = deque(maxlen=30)
        self._look_every = look_every
        self.facts = 0
        self._forget()

    def _forget(self) -> None:
        self._ends.clear()
        self.places = {name: Place() for name in self.models}
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, str] = {}
        self.leases: dict[str, tuple[Lease, float, float]] = {}  # with expiry, and until when it is renewed at most
        self.readings: dict[str, tuple[m.Measured, float]] = {}
        self.is_stopping = False

    # What may happen

    def arrive(
        self,
        model: int,
        *,
        priority: Priority = "normal",
        caller: str = "",
        deadline_in: float | None = None,
        quality: int = 0,
        keep: float | None = None,
        doubled: bool = False,
    ) -> str:
        """Somebody asks for a model; perhaps one that was removed."""
        ticket = self._name("req")
        name = self.all_models[model % len(self.all_models)].name
        fact = m.RequestArrived(
            ticket=ticket,
            model=name,
            priority=priority,
            caller=caller,
            deadline=None if deadline_in is None else self.now + deadline_in,
            least_quality=quality,
            keep_seconds=keep,
        )
        ahead = sum(
            isinstance(other.fact, m.RequestArrived) and other.fact.model == name and other.fact.caller == caller
            for other in self.waiting.values()
        )
        self.waiting[ticket] = Waiting(fact, self.now, ahead, self.faults)
        self._tell(fact)
        if doubled and (ticket in self.waiting or ticket in self.running):
            self._tell(fact)
        return ticket

    def finish(self, index: int, *, doubled: bool = False) -> None:
        """A running request ends."""
        if self.running:
            ticket = list(self.running)[index % len(self.running)]
            self._finish(ticket)
            if doubled:
                self._tell(m.RequestFinished(ticket=ticket))

    def leave(self, index: int, *, doubled: bool = False) -> None:
        """A caller goes, whether it waits or runs."""
        everybody = [id_ for id_, waiting in self.waiting.items() if isinstance(waiting.fact, m.RequestArrived)]
        everybody += list(self.running)
        if everybody:
            ticket = everybody[index % len(everybody)]
            self.waiting.pop(ticket, None)
            if ticket in self.running:
                self._end_run(ticket)
            for _ in range(2 if doubled else 1):
                self._tell(m.RequestLeft(ticket=ticket))

    def ask(
        self,
        amounts: Demand,
        *,
        lease_class: LeaseClass = "job",
        priority: Priority = "normal",
        caller: str = "",
        ttl: float = 20.0,
        wait: float = 30.0,
        doubled: bool = False,
    ) -> str:
        """A foreign program asks for room."""
        id_ = self._name("lease")
        lease = Lease(id=id_, devices=amounts, lease_class=lease_class, holder="a program", priority=priority)
        fact = m.LeaseAsked(lease=lease, ttl_seconds=ttl, wait_until=self.now + wait, caller=caller)
        self.waiting[id_] = Waiting(fact, self.now, 0, self.faults)
        self._tell(fact)
        if wait <= 0:
            self.promises.check(id_ not in self.waiting, "hangs", f"{id_} asked for an answer at once")
        if doubled and (id_ in self.waiting or id_ in self.leases):
            self._tell(fact)
        return id_

    def release(self, index: int, *, doubled: bool = False) -> None:
        """A foreign program ends, or waits no longer."""
        everybody = list(self.leases)
        everybody += [id_ for id_, waiting in self.waiting.items() if isinstance(waiting.fact, m.LeaseAsked)]
        if everybody:
            id_ = everybody[index % len(everybody)]
            self.leases.pop(id_, None)
            self.waiting.pop(id_, None)
            for _ in range(2 if doubled else 1):
                self._tell(m.LeaseReleased(id=id_))

    def renew(self, index: int) -> None:
        """A foreign program is still there."""
        if self.leases:
            id_ = list(self.leases)[index % len(self.leases)]
            lease, _, until = self.leases[id_]
            ttl = min(20.0, until - self.now)
            if ttl > 0:
                self.leases[id_] = lease, self.now + ttl, until
                self._tell(m.LeaseRenewed(id=id_, ttl_seconds=ttl))

    def end_order(self, index: int, *, how: str = "good", doubled: bool = False) -> None:
        """An order ends: ``good``, ``bad``, or ``lost`` (it ends well, and nobody hears of it)."""
        open_orders = [name for name, place in self.places.items() if place.order is not None and not place.is_silent]
        if not open_orders:
            return
        name = open_orders[index % len(open_orders)]
        place = self.places[name]
        if place.answer is None:
            if how == "bad" and not place.has_failed and not isinstance(place.order, m.StopWorker):
                self.faults += 1
                place.answer = self._fail(name)
            else:
                place.answer = self._succeed(name)
        if how == "lost":
            self.faults += 1
            place.is_silent = True
            return
        answer = place.answer
        place.order = place.answer = None
        self._tell(answer)
        if doubled:
            self._tell(answer)

    def die(self, index: int, *, retry_in: float | None = 0.0, doubled: bool = False) -> None:
        """A worker dies, whatever it was doing."""
        alive = [name for name, place in self.places.items() if place.phase != "cold" and not place.is_silent]
        if alive:
            name = alive[index % len(alive)]
            self.faults += 1
            place = self.places[name]
            place.order = place.answer = None
            fact = self._gone(name, "killed by the kernel", retry_in)
            self._tell(fact)
            if doubled:
                self._tell(fact)

    def measure(self, device: int, ghost: int = 0) -> None:
        """A device is read: what workers and programs hold, and some memory that nobody admits to."""
        id_ = list(self.devices)[device % len(self.devices)]
        if ghost != self._ghost.get(id_, 0):
            self.faults += 1
            self._ghost[id_] = ghost
        by_holder = {name: place.held.get(id_, 0) for name, place in self.places.items() if id_ in place.held}
        by_holder |= {
            lease.id: lease.devices.get(id_, 0) for lease, _, _ in self.leases.values() if id_ in lease.devices
        }
        used = sum(by_holder.values()) + ghost
        if device % 2:
            by_holder = {}
        fact = m.Measured(device=id_, used_bytes=used, by_holder=by_holder)
        self.readings[id_] = fact, self.now
        self._tell(fact)

    def nonsense(self, index: int) -> None:
        """Facts about nobody, or that cannot be."""
        cold = next(
            (name for name, place in self.places.items() if place.phase == "cold" and place.order is None),
            "local/nobody",
        )
        facts: list[m.Fact] = [
            m.WorkerReady(model=cold, seconds=-5.0),
            m.WorkerAsleep(model=cold, level=1),
            m.WorkerGone(model=cold, retry_in=None),
            m.OrderFailed(model=cold, reason="?"),
            m.WorkerReady(model="local/nobody"),
            m.RequestFinished(ticket="req_nobody"),
            m.RequestLeft(ticket="req_nobody"),
            m.LeaseReleased(id="lease_nobody"),
            m.LeaseRenewed(id="lease_nobody", ttl_seconds=5),
            m.ModelRemoved(name="local/nobody"),
            m.UnloadAsked(model="local/nobody"),
            m.Measured(device="host/nothing", used_bytes=GIB),
            m.Ticked(),
        ]
        self._tell(facts[index % len(facts)])

    def repeat(self, index: int) -> None:
        """An old fact about an end comes once more, late."""
        if self._ends:
            self._tell(self._ends[index % len(self._ends)])

    def change_model(self, index: int, how: str) -> None:
        """A model is ``removed``, ``added`` (again), ``pinned``, or comes with ``other`` words."""
        model = self.all_models[index % len(self.all_models)]
        place = self.places.setdefault(model.name, Place())
        self.faults += 1
        if how == "removed":
            if model.name in self.models:
                del self.models[model.name]
                place.is_unwanted = True
                self._tell(m.ModelRemoved(name=model.name))
            return
        if how == "pinned":
            if model.name in self.models and model.lease_class != "voice":
                model = self.models[model.name] = msgspec.structs.replace(self.models[model.name], lease_class="pinned")
                self._tell(m.ModelAdded(model=model))
            return
        if how == "other":
            size = model.sizes[-1]
            grown = {device: amount + GIB for device, amount in size.devices.items()}
            model = Model(
                **{field: getattr(model, field) for field in model.__struct_fields__ if field != "sizes"},
                sizes=(*model.sizes[:-1], Size(name=size.name, devices=grown, quality=size.quality)),
            )
        place.is_unwanted = place.phase != "cold"
        self.models[model.name] = model
        self._tell(m.ModelAdded(model=model))

    def unload(self, index: int) -> None:
        """Somebody wants a worker to end."""
        name = list(self.places)[index % len(self.places)]
        place = self.places[name]
        is_there = place.phase not in {"cold", "stopping"}
        place.is_unloading = place.is_unloading or is_there
        place.is_unwanted = place.is_unwanted or is_there
        self.faults += is_there
        self._tell(m.UnloadAsked(model=name))

    def restart(self) -> None:
        """The daemon dies and comes back: its workers died with it, callers were told, foreign programs live on."""
        leases = dict(self.leases)
        self._forget()
        self.scheduler = self._make(tuple(self.devices.values()), tuple(self.models.values()), SETTINGS)
        self.faults += 1
        for id_, (lease, expiry, until) in leases.items():
            if expiry > self.now:
                self.leases[id_] = lease, expiry, until
            self._tell(m.LeaseAdopted(lease=lease, expires_in=expiry - self.now), adopts=id_)

    def stop(self) -> None:
        """The daemon closes."""
        self.is_stopping = True
        self._tell(m.Stopping())
        self.promises.check(not self.waiting, "hangs", f"{list(self.waiting)} wait for a daemon that closes")

    def pass_time(self, seconds: float) -> None:
        """Time passes: whatever is due in between happens at its time."""
        until = self.now + seconds
        for _ in range(5000):
            at = self._next_event()
            due = self.scheduler.next_at()
            if due is not None and due <= min(until, at):
                self.now = max(self.now, due)
                self._tell(m.Ticked())
                again = self.scheduler.next_at()
                self.promises.check(
                    again is None or again > self.now, "spins", "a tick is due again at the same moment"
                )
            elif at <= until:
                self.now = max(self.now, at)
                self._do_overdue()
            else:
                self.now = until
                return
        raise Violation("spins: too much happens")

    def settle(self) -> None:
        """Let everything come to its end without further faults; nobody may be left."""
        self.is_quiet = True
        for device in self._ghost:
            self._ghost[device] = 0
        for _ in range(400 + 10 * len(self.waiting)):  # each may run for so long, and need a load before it
            if not self.waiting:
                return
            self.pass_time(RUN_MOST_SECONDS / 2)
            for id_ in [id_ for id_, (_, _, until) in self.leases.items() if until <= self.now]:
                del self.leases[id_]
                self._tell(m.LeaseReleased(id=id_))
        raise Violation(f"hangs: {list(self.waiting)} wait although nobody else wants anything")

    # What is forced to happen: nothing lasts forever

    def _next_event(self) -> float:
        ends = [since + RUN_MOST_SECONDS for place in self.places.values() for since in place.running.values()]
        ends += [
            place.ordered_at + RUN_MOST_SECONDS
            for place in self.places.values()
            if place.order is not None and not place.is_silent
        ]
        return min(ends, default=float("inf"))

    def _do_overdue(self) -> None:
        for name, place in list(self.places.items()):
            for ticket, since in list(place.running.items()):
                if since + RUN_MOST_SECONDS <= self.now and ticket in self.running:
                    self._finish(ticket)
            is_due = place.ordered_at + RUN_MOST_SECONDS <= self.now
            if place.order is not None and not place.is_silent and is_due:
                answer = place.answer or self._succeed(name)
                place.order = place.answer = None
                self._tell(answer)

    # How orders end

    def _succeed(self, name: str) -> m.Fact:
        place = self.places[name]
        order = place.order
        took = self.now - place.ordered_at - (2.0 if place.number % 7 == 0 else 0.0)  # clocks are not to be trusted
        if isinstance(order, m.StopWorker):
            return self._gone(name, "", 0.0)
        place.held = dict(place.after)
        place.idle_since = self.now
        if isinstance(order, m.SleepWorker):
            place.phase = "asleep"
            return m.WorkerAsleep(model=name, level=order.level, seconds=took, order=place.number)
        if isinstance(order, (m.StartWorker, m.ResizeWorker)):
            place.size = order.size
        place.phase = "ready"
        place.ready_at = self.now
        place.has_failed = False
        return m.WorkerReady(model=name, seconds=took, order=place.number)

    def _fail(self, name: str) -> m.Fact:
        place = self.places[name]
        if isinstance(place.order, m.StartWorker):
            place.has_failed = True
            return self._gone(name, "out of memory", 2.0)
        place.has_failed = True
        place.phase = place.before
        place.held = dict(place.before_held)
        return m.OrderFailed(model=name, reason="no", order=place.number)

    def _gone(self, name: str, reason: str, retry_in: float | None) -> m.WorkerGone:
        place = self.places[name]
        place.phase = "cold"
        place.held = {}
        place.is_unwanted = place.is_unloading = False
        place.keep = None
        for ticket in place.running:
            del self.running[ticket]  # their callers are told by whoever reads from the worker
        place.running.clear()
        return m.WorkerGone(model=name, reason=reason, retry_in=retry_in, order=place.number)

    def _end_run(self, ticket: str) -> None:
        place = self.places[self.running.pop(ticket)]
        del place.running[ticket]
        place.idle_since = self.now

    def _finish(self, ticket: str) -> None:
        self._end_run(ticket)
        self._tell(m.RequestFinished(ticket=ticket))

    def _tell(self, fact: m.Fact, adopts: str = "") -> None:
        self.counts[type(fact).__name__] += 1
        if isinstance(fact, ENDS) and getattr(fact, "order", True):  # without a number nobody could tell it is old
            self._ends.append(fact)
        for effect in self.scheduler.decide(fact, self.now):
            reason = f" {effect.reason}" if isinstance(effect, m.RefuseRequest) else ""
            self.counts[type(effect).__name__ + reason] += 1
            self.promises.take(effect, adopts)
        self.facts += 1
        if self.facts % self._look_every == 0:
            self.promises.look()

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}_{self._number}"
