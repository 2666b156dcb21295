"""The discrete-event heap: carries a scheduler's orders out on virtual time and tells it what came of them.

Everything that takes time (a load, a stop, an answer, a held lease) is an entry in the heap; its end becomes the next
fact. The same world, the same speeds and the same patience serve every policy. A scheduler that grants more than there
is, admits somebody to a worker that is not ready, or stops one that serves, is not compared but reported.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Callable
from typing import Any

from turnout.core.memory import PRIORITIES, Lease
from turnout.scheduler.messages import (
    AdmitRequest,
    Effect,
    EndLease,
    Fact,
    GrantLease,
    LeaseAsked,
    LeaseReleased,
    RefuseLease,
    RefuseRequest,
    RequestArrived,
    RequestFinished,
    RequestLeft,
    ResizeWorker,
    Scheduler,
    SleepWorker,
    StartWorker,
    StopWorker,
    Ticked,
    WakeWorker,
    WorkerAsleep,
    WorkerGone,
    WorkerReady,
)
from turnout.simulate.memory import Memory, MemoryOverrun
from turnout.simulate.profile import Profile
from turnout.simulate.timeline import Timeline
from turnout.simulate.traces.arrivals import Arrivals, LeaseShape
from turnout.simulate.worker import SimulatedWorker

IDLE_REASON = "idle"
"""A stop whose reason begins so makes no room for anybody: it is no eviction."""
NUDGE_SECONDS = 0.001
"""A tick that changed nothing and is asked for again comes this much later."""
MOST_NUDGES = 10_000
WAITING, SERVED, REFUSED = 0, 1, 2
Order = StartWorker | StopWorker | SleepWorker | WakeWorker | ResizeWorker


class PolicyError(Exception):
    """A scheduler did what none may do."""


class World:
    """One run of one scheduler over one set of arrivals.

    Args:
        scheduler: Whoever decides; it starts with every worker cold.
        profile: What there is.
        arrivals: What is asked.
    """

    def __init__(self, scheduler: Scheduler, profile: Profile, arrivals: Arrivals) -> None:
        self.profile = profile
        self.arrivals = arrivals
        self.timeline = Timeline()
        self.wait = array("d", bytes(8 * len(arrivals)))
        """Seconds until the work began; for those that were refused or left, their whole patience."""
        self.status = bytearray(len(arrivals))
        self.refusals: dict[str, int] = {}
        self.swaps = self.evictions = self.loads = self.idle_unloads = 0
        self.now = 0.0
        self._scheduler = scheduler
        self._memory = Memory(profile.devices, self.timeline)
        self._workers = {shape.model.name: SimulatedWorker(shape) for shape in profile.models}
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = 0
        self._impatient: list[tuple[float, int]] = []
        self._carry_out: dict[type[Effect], Callable[[Any], None]] = {
            AdmitRequest: self._admit,
            RefuseRequest: self._refuse,
            StartWorker: self._start,
            StopWorker: self._stop,
            SleepWorker: self._sleep,
            WakeWorker: self._wake,
            ResizeWorker: self._resize,
            GrantLease: self._grant,
            RefuseLease: self._refuse_lease,
            EndLease: self._end_lease,
        }

    def run(self, tell: Callable[[int], None] | None = None) -> None:
        """Run until everybody was served or has gone.

        Args:
            tell: Called now and then with the number of arrivals so far.

        Raises:
            PolicyError: The scheduler did what none may do.
        """
        at, count = self.arrivals.at, len(self.arrivals)
        heap, impatient = self._heap, self._impatient
        arrived = nudges = 0
        fruitless_until = -1.0
        while True:
            due = self._scheduler.next_at()
            tick_at = math.inf if due is None else max(due, fruitless_until, self.now)
            while impatient and self.status[impatient[0][1]] != WAITING:
                heapq.heappop(impatient)
            heap_at = heap[0][0] if heap else math.inf
            leave_at = impatient[0][0] if impatient else math.inf
            arrival_at = at[arrived] if arrived < count else math.inf
            now = min(heap_at, tick_at, leave_at, arrival_at)
            if now == math.inf:
                break
            if arrived == count and heap_at == leave_at == math.inf:
                break  # nobody waits or works; what is left are ticks for the sake of nobody
            nudges = nudges + 1 if now == tick_at and now < min(heap_at, leave_at, arrival_at) else 0
            if nudges > MOST_NUDGES:
                raise PolicyError(f"asks for one tick after the other at {now:.3f} s, and nothing happens")
            self.now = now
            if now == heap_at:
                _, _, act, subject = heapq.heappop(heap)
                act(subject)
            elif now == tick_at:
                if not self._tell(Ticked()):
                    fruitless_until = now + NUDGE_SECONDS
            elif now == leave_at:
                self._leave(heapq.heappop(impatient)[1])
            else:
                self._arrive(arrived)
                arrived += 1
                if tell and not arrived & 0x0FFF:
                    tell(arrived)

    def _tell(self, fact: Fact) -> bool:
        """Tell the scheduler a fact and carry its orders out; return whether there were any."""
        effects = self._scheduler.decide(fact, self.now)
        for effect in effects:
            self._carry_out[type(effect)](effect)
        return bool(effects)

    def _later(self, seconds: float, act: Callable[[Any], None], subject: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + seconds, self._sequence, act, subject))

    # Requests and leases

    def _arrive(self, index: int) -> None:
        arrivals = self.arrivals
        shape = arrivals.targets[arrivals.target[index]]
        patience = arrivals.patience[index]
        priority, caller = PRIORITIES[arrivals.priority[index]], arrivals.callers[arrivals.caller[index]]
        if isinstance(shape, LeaseShape):
            lease = Lease(
                id=f"lease_{index}",
                devices=shape.devices,
                lease_class=shape.lease_class,
                holder=shape.holder,
                priority=priority,
            )
            # Longer than it is held: the holder gives it back before it expires.
            ttl = arrivals.work[index] + 60.0
            self._tell(LeaseAsked(lease=lease, ttl_seconds=ttl, wait_until=self.now + patience, caller=caller))
        else:
            # Not how long it will take: a gateway does not know that either.
            self._tell(
                RequestArrived(
                    ticket=str(index),
                    model=shape.model.name,
                    priority=priority,
                    caller=caller,
                    deadline=self.now + patience,
                )
            )
        if self.status[index] == WAITING:
            heapq.heappush(self._impatient, (self.now + patience, index))

    def _leave(self, index: int) -> None:
        """End the wait of somebody whose patience is over."""
        shape = self.arrivals.targets[self.arrivals.target[index]]
        self._note_refusal(index, "deadline")
        if isinstance(shape, LeaseShape):
            self._tell(LeaseReleased(id=f"lease_{index}"))
        else:
            self._tell(RequestLeft(ticket=str(index)))

    def _note_refusal(self, index: int, reason: str) -> None:
        self.status[index] = REFUSED
        self.wait[index] = self.arrivals.patience[index]
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def _note_begin(self, index: int) -> None:
        self.status[index] = SERVED
        self.wait[index] = self.now - self.arrivals.at[index]

    def _refuse(self, order: RefuseRequest) -> None:
        if self.status[index := int(order.ticket)] == WAITING:
            self._note_refusal(index, order.reason)

    def _refuse_lease(self, order: RefuseLease) -> None:
        if self.status[index := int(order.id[6:])] == WAITING:
            self._note_refusal(index, "too_large" if order.too_large else "deadline")

    def _admit(self, order: AdmitRequest) -> None:
        worker, index = self._workers[order.model], int(order.ticket)
        if worker.phase != "ready":
            raise PolicyError(f"admits a request to {order.model}, which is {worker.phase}")
        if self.status[index] != WAITING:
            raise PolicyError(f"admits request {index} twice, or after it was refused")
        if worker.running < worker.slots:
            worker.running += 1
            self._begin(worker, index)
        else:
            worker.line.append(index)

    def _begin(self, worker: SimulatedWorker, index: int) -> None:
        self._note_begin(index)
        self._later(self.arrivals.work[index], self._finish, (worker, index))

    def _finish(self, subject: tuple[SimulatedWorker, int]) -> None:
        worker, index = subject
        while worker.line:
            if self.status[following := worker.line.popleft()] == WAITING:
                self._begin(worker, following)  # the engine has a line of its own, whatever the scheduler does
                break
        else:
            worker.running -= 1
        self._tell(RequestFinished(ticket=str(index)))

    def _grant(self, order: GrantLease) -> None:
        index = int(order.id[6:])
        shape = self._lease_shape(index)
        if self.status[index] != WAITING:
            raise PolicyError(f"grants lease {index} twice, or after it was refused")
        self._take(shape.holder, {}, shape.devices)
        self._note_begin(index)
        self._later(self.arrivals.work[index], self._release, index)

    def _release(self, index: int) -> None:
        shape = self._lease_shape(index)
        self._memory.give_back(shape.holder, shape.devices, {}, self.now, is_eviction=False)
        self._tell(LeaseReleased(id=f"lease_{index}"))

    def _end_lease(self, order: EndLease) -> None:
        raise PolicyError(f"ends {order.id} before its time")

    def _lease_shape(self, index: int) -> LeaseShape:
        shape = self.arrivals.targets[self.arrivals.target[index]]
        assert isinstance(shape, LeaseShape)
        return shape

    # Workers

    def _take(self, holder: str, before: dict[str, int], after: dict[str, int]) -> None:
        try:
            self.swaps += self._memory.take(holder, before, after, self.now)
        except MemoryOverrun as error:
            raise PolicyError(str(error)) from error

    def _ordered(self, order: Order, *phases: str) -> SimulatedWorker | None:
        """Return the worker that an order is for, or None if it is under way already."""
        worker = self._workers[order.model]
        if order.order and order.order == worker.order:
            return None
        if worker.phase not in phases:
            raise PolicyError(f"orders {order} of a worker that is {worker.phase}")
        if worker.is_busy and not isinstance(order, ResizeWorker):
            raise PolicyError(f"orders {order} of a worker that serves")
        worker.order = order.order
        return worker

    def _count_eviction(self, reason: str) -> bool:
        is_eviction = not reason.startswith(IDLE_REASON)
        self.evictions += is_eviction
        self.idle_unloads += not is_eviction
        return is_eviction

    def _start(self, order: StartWorker) -> None:
        if (worker := self._ordered(order, "cold")) is None:
            return
        size = next(size for size in worker.model.sizes if size.name == order.size)
        self._take(worker.name, {}, order.devices)
        self.loads += 1
        worker.phase, worker.held = "loading", order.devices
        self._later(size.load_seconds, self._ready, (worker, size.load_seconds, order.devices))

    def _wake(self, order: WakeWorker) -> None:
        if (worker := self._ordered(order, "asleep")) is None:
            return
        seconds = next(level.wake_seconds for level in worker.model.sleep_levels if level.level == worker.sleep_level)
        together = _larger(worker.held, order.devices)
        self._take(worker.name, worker.held, together)
        self.loads += 1
        worker.phase, worker.held = "waking", together
        self._later(seconds, self._ready, (worker, seconds, order.devices))

    def _resize(self, order: ResizeWorker) -> None:
        if (worker := self._ordered(order, "ready")) is None:
            return
        size = next(size for size in worker.model.sizes if size.name == order.size)
        seconds = worker.model.resize_seconds if worker.model.resizes_live else size.load_seconds
        together = _larger(worker.held, order.devices)
        self.evictions += sum(order.devices.values()) < sum(worker.held.values())
        self._take(worker.name, worker.held, together)
        worker.phase, worker.held = "resizing", together
        self._later(seconds, self._ready, (worker, seconds, order.devices))

    def _ready(self, subject: tuple[SimulatedWorker, float, dict[str, int]]) -> None:
        worker, seconds, devices = subject
        self._memory.give_back(worker.name, worker.held, devices, self.now, is_eviction=worker.phase == "resizing")
        worker.phase, worker.held = "ready", devices
        self._tell(WorkerReady(model=worker.name, seconds=seconds, order=worker.order))

    def _stop(self, order: StopWorker) -> None:
        if (worker := self._ordered(order, "ready", "asleep")) is None:
            return
        worker.phase = "stopping"
        self._later(self.profile.stop_seconds, self._gone, (worker, self._count_eviction(order.reason)))

    def _gone(self, subject: tuple[SimulatedWorker, bool]) -> None:
        worker, is_eviction = subject
        self._memory.give_back(worker.name, worker.held, {}, self.now, is_eviction=is_eviction)
        worker.phase, worker.held = "cold", {}
        self._tell(WorkerGone(model=worker.name, order=worker.order))

    def _sleep(self, order: SleepWorker) -> None:
        if (worker := self._ordered(order, "ready", "asleep")) is None:
            return
        level = next(level for level in worker.model.sleep_levels if level.level == order.level)
        together = _larger(worker.held, order.devices)
        self._take(worker.name, worker.held, together)
        worker.phase, worker.held = "falling_asleep", together
        self._later(level.sleep_seconds, self._asleep, (worker, order, self._count_eviction(order.reason)))

    def _asleep(self, subject: tuple[SimulatedWorker, SleepWorker, bool]) -> None:
        worker, order, is_eviction = subject
        seconds = next(level.sleep_seconds for level in worker.model.sleep_levels if level.level == order.level)
        self._memory.give_back(worker.name, worker.held, order.devices, self.now, is_eviction=is_eviction)
        worker.phase, worker.held, worker.sleep_level = "asleep", order.devices, order.level
        self._tell(WorkerAsleep(model=worker.name, level=order.level, seconds=seconds, order=worker.order))


def _larger(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {device: max(one.get(device, 0), other.get(device, 0)) for device in one | other}
