"""The scheduler's shell: facts go through the decider one by one, what it decides is carried out, on one event loop.

There are no locks: everything here runs on the loop, and a fact that arrives while effects are carried out waits its
turn in a queue. Slow work is bracketed by two facts: an order goes out, its end comes back over the bus (``hear``).
Devices are read in a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

import msgspec

from turnout.core.clock import Clock
from turnout.core.errors import NotFound
from turnout.core.events import Emit, Event, OrderOverdue, WorkerChanged, WorkerOrdered
from turnout.core.memory import Demand, Lease, LeaseClass
from turnout.scheduler.admissions import Admissions
from turnout.scheduler.effects import Effects, FleetEffects, Order, OrderKind, WorkerEnd, fact_of
from turnout.scheduler.journal import LeaseJournal
from turnout.scheduler.leases import LeaseBook
from turnout.scheduler.messages import (
    AdmitRequest,
    Effect,
    EndLease,
    Fact,
    GrantLease,
    Measured,
    ModelAdded,
    ModelRemoved,
    OrderFailed,
    RefuseLease,
    RefuseRequest,
    ResizeWorker,
    Scheduler,
    SleepWorker,
    StartWorker,
    Stopping,
    StopWorker,
    Ticked,
    View,
    WaitingView,
    WakeWorker,
    WorkerAsleep,
    WorkerGone,
    WorkerReady,
    WorkerView,
)
from turnout.scheduler.pins import Pins
from turnout.scheduler.unloads import Unloads
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.devices.base import DeviceReader, attribute
from turnout.tiers.local.devices.watch import LOOK_SECONDS, Watch
from turnout.tiers.local.machine import parent_of

ORDER_SECONDS = 30.0
"""For a stop, a sleep, a wake or a change of size; a start has ``deadlines.load`` and this on top."""
SHORTEST_TIMER_SECONDS = 0.005
"""The decider and the system count time differently in the last digit: a timer must not spin."""


WorkerOrder = StartWorker | StopWorker | SleepWorker | WakeWorker | ResizeWorker
KINDS: dict[type[WorkerOrder], OrderKind] = {
    StartWorker: "start", StopWorker: "stop", SleepWorker: "sleep", WakeWorker: "wake", ResizeWorker: "resize",
}  # fmt: skip


class Seen(msgspec.Struct, frozen=True):
    """What one look at the world brought.

    Attributes:
        measured: Of each device that can be measured.
        lost: Leases whose holder's process is gone.
    """

    measured: tuple[Measured, ...]
    lost: tuple[str, ...]


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds memory, for people.

    Attributes:
        holder: A target, or the words of a foreign program.
        lease_class: How it may be treated.
        devices: Bytes on each device.
        lease: Of a foreign program, its id.
        phase: Of a worker, what it does.
        running: Of a worker, its requests.
    """

    holder: str
    lease_class: LeaseClass = msgspec.field(name="class")
    devices: Demand
    lease: str = ""
    phase: str = ""
    running: int = 0


class SchedulerLoop:
    """The scheduler and what it acts on.

    Args:
        scheduler: Decides.
        fleet: Whose models need room.
        journal: Of leases.
        readers: Measure the devices.
        clock: Time.
        emit: Tells everybody about a fact.
        queue_seconds: How long a request waits where it does not say.
        load_seconds: How long a start may take.
        pins: What a person has pinned; nothing if left out.
        effects: Carries orders out; the fleet's engines if left out.
        look_seconds: Between two looks at the devices.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        fleet: Fleet,
        journal: LeaseJournal,
        readers: Sequence[DeviceReader],
        clock: Clock,
        emit: Emit,
        *,
        queue_seconds: float,
        load_seconds: float,
        pins: Pins | None = None,
        effects: Effects | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._scheduler = scheduler
        self._fleet = fleet
        self._journal = journal
        self._readers = tuple(readers)
        self._clock = clock
        self._emit = emit
        self._load_seconds = load_seconds
        self._pins = pins or Pins()
        self._watch = Watch(self._look, self._saw, look_seconds)
        self._effects = effects or FleetEffects(fleet, self.end_order)
        self._facts: deque[Fact] = deque()
        self._due: deque[Effect] = deque()
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._orders: dict[str, Order] = {}
        self._ready: set[str] = set()
        self._is_stopping = False
        self.requests = Admissions(self, clock, emit, queue_seconds)
        self.unloads = Unloads(self.tell, self.worker)
        self.leases = LeaseBook(journal, self, clock, emit, self.holders_on)

    # Its life

    def begin(self) -> None:
        """Take over what the journal knows and say which models there are.

        Raises:
            SetupError: The journal cannot be written.
        """
        self.leases.adopt()
        self._compare_models()

    async def run(self) -> None:
        """Watch devices and workers until cancelled."""
        try:
            await self._watch.run()
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def stop(self) -> None:
        """Refuse everybody who waits, and grant nothing any more; leases that hold go on holding."""
        self._is_stopping = True
        self.tell(Stopping())

    def close(self) -> None:
        """Let go of the journal; foreign leases stay in it for the next daemon."""
        self._journal.close()

    # Facts in, effects out

    def tell(self, fact: Fact) -> None:
        """Take a fact in and carry out what follows. A fact that comes meanwhile waits until that is done."""
        self._facts.append(fact)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while True:
                if self._due:
                    self._carry_out(self._due.popleft())
                elif self._facts:
                    self._due.extend(self._scheduler.decide(self._facts.popleft(), self._clock.monotonic_seconds()))
                else:
                    break
        finally:  # what an error left behind is carried out with the next fact
            self._is_busy = False
        at = self._scheduler.next_at()
        if at is not None and (self._timer is None or at < self._timer_at):
            self._set_timer(at)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(at - self._clock.monotonic_seconds(), SHORTEST_TIMER_SECONDS)
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.tell(Ticked())

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case AdmitRequest():
                self.requests.admitted(effect)
            case RefuseRequest():
                self.requests.refused(effect)
            case GrantLease():
                self.leases.granted(effect)
            case RefuseLease():
                self.leases.refused(effect, is_stopping=self._is_stopping)
            case EndLease():
                self.leases.ended(effect)
                self._watch.soon()
            case StartWorker() | WakeWorker() | ResizeWorker() | SleepWorker() | StopWorker():
                self._give_order(effect)
            case _:
                raise AssertionError(f"nobody carries out {effect!r}")

    def _give_order(self, effect: WorkerOrder) -> None:
        model, now = effect.model, self._clock.monotonic_seconds()
        kind = KINDS[type(effect)]
        if isinstance(
            effect, StartWorker | WakeWorker | ResizeWorker
        ):  # it will use memory: written down before the act
            known = self.requests.models.get(model)
            self.leases.worker_starts(model, effect.devices, known.lease_class if known is not None else "resident")
        before = self._orders.get(model)
        if before is None or before.number != effect.order or not effect.order:
            level = effect.level if isinstance(effect, SleepWorker) else 0
            self._orders[model] = Order(kind=kind, number=effect.order, ordered_at=now, level=level)
        self._emit(
            WorkerOrdered(
                target=model,
                order=kind,
                size=getattr(effect, "size", ""),
                devices=getattr(effect, "devices", {}),
                reason=getattr(effect, "reason", ""),
            )
        )
        match effect:
            case StartWorker():
                self._effects.start(model, effect.size, effect.devices)
            case StopWorker():
                self._effects.stop(model)
            case SleepWorker():
                self._effects.sleep(model, effect.level)
            case WakeWorker():
                self._effects.wake(model)
            case ResizeWorker():
                self._effects.resize(model, effect.size, effect.devices)

    # What workers and devices do

    def hear(self, event: Event) -> None:
        """Listen to the bus: what a worker did is a fact, and the end of its order."""
        if not isinstance(event, WorkerChanged):
            return
        if event.target not in self.requests.models and event.target not in self._orders:
            return  # nothing is decided for it
        fact = fact_of(event, self._orders.get(event.target), self._clock.monotonic_seconds())
        if fact is None:
            return
        was_ready = event.target in self._ready
        self.end_order(fact)
        if isinstance(fact, WorkerGone) and fact.reason and was_ready and fact.retry_in is not None:
            self._bring_back(event.target, fact.retry_in)

    def _bring_back(self, model: str, seconds: float) -> None:
        """Load a model again that died in the middle of its work: the next request for it shall find it ready."""
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, self.requests.wish, model)
        else:
            self.requests.wish(model)

    def end_order(self, fact: WorkerEnd) -> None:
        """Take in what became of a worker: the end of its order, or what it did by itself."""
        order = self._orders.pop(fact.model, None)
        if order is not None and not fact.order:
            fact = msgspec.structs.replace(fact, order=order.number)
        match fact:
            case WorkerReady():
                self._ready.add(fact.model)
                self.requests.is_well(fact.model)
            case WorkerAsleep():
                self._ready.discard(fact.model)
                self._watch.soon()
            case WorkerGone():
                self._ready.discard(fact.model)
                self.leases.worker_gone(fact.model)
                self.unloads.gone(fact.model)
                self._watch.soon()  # whoever waits for the memory waits until it is seen to be free
            case OrderFailed():
                pass  # it is as it was
        self.tell(fact)
        if isinstance(fact, WorkerGone) and fact.reason and fact.retry_in:
            self.requests.failed(fact.model, fact.reason, fact.retry_in)

    def _look(self) -> Seen:
        """Look at the world; in a thread of its own."""
        holders = {worker.pid: worker.target for worker in self._fleet.workers()} | self.leases.processes()
        measured = tuple(
            Measured(
                device=reading.device,
                used_bytes=reading.used_bytes,
                by_holder=attribute(reading, holders, parent_of),
            )
            for reader in self._readers
            for reading in reader.read()
        )
        return Seen(measured, tuple(self._journal.lost_holders()))

    def _saw(self, seen: Seen) -> None:
        for fact in seen.measured:
            self.tell(fact)
        for lease_id in seen.lost:
            with contextlib.suppress(NotFound):  # a worker's, or it has just ended
                self.leases.release(lease_id, "its process is gone")
        self._compare_models()
        self._end_overdue()

    def pin(self, target: str, *, is_pinned: bool) -> None:
        """Pin a model or let it go, now and after a restart; what the configuration pins stays pinned.

        Raises:
            SetupError: It cannot be written down: nothing has changed.
        """
        self._pins.set(target, is_pinned=is_pinned)
        self._compare_models()

    def models_changed(self) -> None:
        """Look at the fleet's models now, and not at the next look at the devices."""
        self._compare_models()

    def _compare_models(self) -> None:
        """Tell the decider of models that have come, gone, or want something else than before."""
        known = self.requests.models
        found = {name: self._pins.applied(model) for name, (model, _) in self._fleet.models().items()}
        for name in [name for name in known if name not in found]:
            del known[name]
            self.requests.is_well(name)  # another model may come under this name: it has not failed
            self.tell(ModelRemoved(name=name))
        for name, model in found.items():
            if known.get(name) != model:
                known[name] = model
                self.tell(ModelAdded(model=model))

    def _end_overdue(self) -> None:
        """Stop workers that have not done in time what they were ordered to."""
        now = self._clock.monotonic_seconds()
        for model, order in list(self._orders.items()):
            limit = ORDER_SECONDS + (self._load_seconds if order.kind == "start" else 0.0)
            if now - order.ordered_at > limit:
                self._emit(OrderOverdue(target=model, order=order.kind, seconds=now - order.ordered_at))
                self._orders[model] = Order(kind="stop", number=order.number, ordered_at=now)
                self._effects.stop(model)

    # What can be seen

    def position(self, ticket: str) -> WaitingView | None:
        """Return where a request or a lease stands that waits, or None if it does not wait."""
        return self._scheduler.position(ticket, self._clock.monotonic_seconds())

    def view(self) -> View:
        """Return everything as it is; leases with their times."""
        view = self._scheduler.view(self._clock.monotonic_seconds())
        return msgspec.structs.replace(view, leases=tuple(self.leases.all()))

    def worker(self, target: str) -> WorkerView | None:
        """Return a model's worker as it is, or None if there is no such model."""
        return next((worker for worker in self.view().workers if worker.model == target), None)

    def holders(self, view: View | None = None) -> list[Holder]:
        """Return who holds memory: workers first, then foreign programs."""
        view = view or self.view()
        workers = [
            Holder(holder=w.model, lease_class=w.lease_class, devices=w.devices, phase=w.phase, running=w.running)
            for w in view.workers
            if any(w.devices.values())
        ]
        return workers + [_holder(lease) for lease in view.leases]

    def holders_on(self, devices: Demand) -> list[dict[str, object]]:
        """Return who holds memory on some devices, as plain values."""
        found = [holder for holder in self.holders() if any(holder.devices.get(device) for device in devices)]
        return [msgspec.to_builtins(holder) for holder in found]


def _holder(lease: Lease) -> Holder:
    return Holder(holder=lease.holder, lease_class=lease.lease_class, devices=lease.devices, lease=lease.id)
