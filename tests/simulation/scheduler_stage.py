"""A small stage for one question at a time: fixed durations, no faults, and a record of who waited how long."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from turnout.core.memory import GIB, Demand, Device, Lease, LeaseClass, Model, Priority
from turnout.scheduler import messages as m
from turnout.scheduler.decide import Decider
from turnout.scheduler.settings import SchedulerSettings

GPU = "host/gpu0"


class Stage:
    """Drives a decider on virtual time.

    Args:
        models: What may be loaded.
        total_gib: Of the one card.
        settings: Of the decider.
        run_seconds: How long a request of each model runs.
        load_seconds: How long each start takes.
        stop_seconds: How long each stop takes; sleeping and waking too.
        further: Devices beside the card.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        total_gib: int = 24,
        settings: SchedulerSettings | None = None,
        run_seconds: dict[str, float] | None = None,
        load_seconds: float = 5.0,
        stop_seconds: float = 0.5,
        further: Iterable[Device] = (),
    ) -> None:
        devices = [Device(id=GPU, kind="simulated", total_bytes=total_gib * GIB), *further]
        self.settings = settings or SchedulerSettings()
        self.decider = Decider(devices, models, self.settings)
        self.now = 0.0
        self.run_seconds = run_seconds or {}
        self.load_seconds = load_seconds
        self.stop_seconds = stop_seconds
        self.effects: list[tuple[float, m.Effect]] = []
        self.waits: dict[str, float] = {}
        self.refused: dict[str, m.RefuseRequest] = {}
        self.granted: dict[str, float] = {}
        self.refused_leases: dict[str, m.RefuseLease] = {}
        self._asked: dict[str, float] = {}
        self._holds: dict[str, float | None] = {}
        self._heap: list[tuple[float, int, m.Fact]] = []
        self._number = 0

    def at(self, when: float, fact: m.Fact) -> None:
        """Have a fact happen."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, fact))

    def request(
        self,
        when: float,
        model: str,
        *,
        priority: Priority = "normal",
        caller: str = "",
        deadline: float | None = None,
        quality: int = 0,
    ) -> str:
        """Have somebody ask for a model; return the ticket."""
        self._number += 1
        ticket = f"req_{self._number}"
        self._asked[ticket] = when
        fact = m.RequestArrived(
            ticket=ticket,
            model=model,
            priority=priority,
            caller=caller,
            deadline=deadline,
            least_quality=quality,
        )
        self.at(when, fact)
        return ticket

    def lease(
        self,
        when: float,
        devices: Demand,
        *,
        hold: float | None = None,
        ttl: float = 1e6,
        wait: float = 1e6,
        lease_class: LeaseClass = "job",
        priority: Priority = "normal",
        caller: str = "",
    ) -> str:
        """Have a foreign program ask for memory, and hold it for so long once granted; return its id."""
        self._number += 1
        id_ = f"lease_{self._number}"
        self._asked[id_] = when
        self._holds[id_] = hold
        lease = Lease(id=id_, devices=devices, lease_class=lease_class, holder=id_, priority=priority)
        self.at(when, m.LeaseAsked(lease=lease, ttl_seconds=ttl, wait_until=when + wait, caller=caller))
        return id_

    def run(self, until: float) -> Stage:
        """Let everything happen until a moment."""
        while True:
            due = self.decider.next_at()
            at = self._heap[0][0] if self._heap else float("inf")
            when = at if due is None else min(due, at)
            if when > until:
                self.now = until
                return self
            self.now = max(self.now, when)
            if due is not None and due <= at:
                self._take(m.Ticked())
            else:
                self._take(heapq.heappop(self._heap)[2])

    def _take(self, fact: m.Fact) -> None:
        for effect in self.decider.decide(fact, self.now):
            self.effects.append((self.now, effect))
            self._happen(effect)

    def _happen(self, effect: m.Effect) -> None:
        now = self.now
        match effect:
            case m.AdmitRequest():
                self.waits[effect.ticket] = now - self._asked[effect.ticket]
                end = now + self.run_seconds.get(effect.model, 1.0)
                self.at(end, m.RequestFinished(ticket=effect.ticket))
            case m.RefuseRequest():
                self.refused[effect.ticket] = effect
            case m.GrantLease():
                self.granted[effect.id] = now
                self.waits[effect.id] = now - self._asked[effect.id]
                if (hold := self._holds[effect.id]) is not None:
                    self.at(now + hold, m.LeaseReleased(id=effect.id))
            case m.RefuseLease():
                self.refused_leases[effect.id] = effect
            case m.StartWorker():
                took = self.load_seconds
                self.at(now + took, m.WorkerReady(model=effect.model, seconds=took, order=effect.order))
            case m.WakeWorker() | m.ResizeWorker():
                took = self.stop_seconds
                self.at(now + took, m.WorkerReady(model=effect.model, seconds=took, order=effect.order))
            case m.SleepWorker():
                asleep = m.WorkerAsleep(model=effect.model, level=effect.level, seconds=0.5, order=effect.order)
                self.at(now + self.stop_seconds, asleep)
            case m.StopWorker():
                self.at(now + self.stop_seconds, m.WorkerGone(model=effect.model, order=effect.order))
            case _:
                pass

    # Questions

    def orders(self, *kinds: type[m.Effect]) -> list[tuple[float, str]]:
        """Return when which models were ordered to do something of some kinds."""
        return [
            (when, effect.model)
            for when, effect in self.effects
            if isinstance(effect, kinds)
            and isinstance(effect, m.StartWorker | m.StopWorker | m.SleepWorker | m.WakeWorker | m.ResizeWorker)
        ]

    def loads(self) -> int:
        """Return how many starts there were."""
        return len(self.orders(m.StartWorker))

    def phase(self, model: str) -> m.WorkerPhase:
        """Return where a worker is."""
        return next(worker.phase for worker in self.decider.view(self.now).workers if worker.model == model)
