"""Telling a decider one fact after the other by hand, and reading its answers in short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from turnout.core.memory import GIB, HOST_RAM, Demand, Device, Lease, LeaseClass, Model, Priority, Size, SleepLevel
from turnout.scheduler import messages as m
from turnout.scheduler.decide import Decider
from turnout.scheduler.settings import SchedulerSettings

GPU, GPU1 = "host/gpu0", "host/gpu1"
LIGHT = SleepLevel(level=1, devices={GPU: GIB, HOST_RAM: 10 * GIB}, wake_seconds=1.0)
DEEP = SleepLevel(level=2, devices={GPU: GIB // 2, HOST_RAM: GIB}, wake_seconds=3.0)


def card(gib: int = 24, headroom: int = 0, id_: str = GPU) -> Device:
    """A card."""
    return Device(id=id_, kind="simulated", total_bytes=gib * GIB, headroom_bytes=headroom * GIB)


def memory(gib: int = 64) -> Device:
    """The machine's own memory."""
    return Device(id=HOST_RAM, kind="ram", total_bytes=gib * GIB)


def model(name: str, gib: float = 16, lease_class: LeaseClass = "resident", **words: Any) -> Model:
    """A model of one size, with one slot, that may be moved at once."""
    load_seconds = words.pop("load_seconds", 10.0)
    devices = words.pop("devices", {GPU: int(gib * GIB)})
    given = {"slots": 1, "min_residency_seconds": 0.0} | words
    return Model(name=name, sizes=(Size(devices=devices, load_seconds=load_seconds),), lease_class=lease_class, **given)


def elastic(name: str = "elastic", **words: Any) -> Model:
    """A model of 4, 8 and 12 GiB."""
    sizes = tuple(
        Size(name=f"{gib}g", devices={GPU: gib * GIB}, quality=quality, load_seconds=float(gib))
        for quality, gib in ((1, 4), (2, 8), (3, 12))
    )
    given = {"slots": 1, "min_residency_seconds": 0.0, "preferred_size": 2} | words
    return Model(name=name, sizes=sizes, lease_class="elastic", **given)


class Desk:
    """A decider and a clock.

    Args:
        models: What may be loaded.
        devices: One card of 24 GiB if left out.
        settings: Of the decider; residency by load is off unless set.
    """

    def __init__(self, models: Sequence[Model] = (), devices: Iterable[Device] | None = None, **settings: Any) -> None:
        self.settings = SchedulerSettings(**{"residency_per_load": 0.0} | settings)
        self.decider = Decider([card()] if devices is None else list(devices), models, self.settings)
        self.now = 0.0
        self.orders: dict[str, int] = {}

    def tell(self, fact: m.Fact, at: float | None = None) -> list[str]:
        """Tell a fact, now or later; return the effects in short."""
        self.now = self.now if at is None else at
        effects = self.decider.decide(fact, self.now)
        for effect in effects:
            if isinstance(effect, m.StartWorker | m.StopWorker | m.SleepWorker | m.WakeWorker | m.ResizeWorker):
                self.orders[effect.model] = effect.order
        self.last = effects
        return [short(effect) for effect in effects]

    def ask(
        self,
        ticket: str,
        name: str,
        priority: Priority = "normal",
        *,
        at: float | None = None,
        deadline: float | None = None,
        **words: Any,
    ) -> list[str]:
        """Somebody asks for a model."""
        fact = m.RequestArrived(ticket=ticket, model=name, priority=priority, deadline=deadline, **words)
        return self.tell(fact, at)

    def done(self, ticket: str, at: float | None = None) -> list[str]:
        """A request ends."""
        return self.tell(m.RequestFinished(ticket=ticket), at)

    def ready(self, name: str, at: float | None = None, seconds: float = 0.0) -> list[str]:
        """A start, a wake or a change of size ends."""
        return self.tell(m.WorkerReady(model=name, seconds=seconds, order=self.orders[name]), at)

    def asleep(self, name: str, level: int = 1, at: float | None = None) -> list[str]:
        """A worker has fallen asleep."""
        return self.tell(m.WorkerAsleep(model=name, level=level, order=self.orders[name]), at)

    def gone(self, name: str, at: float | None = None, **words: Any) -> list[str]:
        """A worker is no more."""
        return self.tell(m.WorkerGone(model=name, order=self.orders.get(name, 0), **words), at)

    def tick(self, at: float) -> list[str]:
        """Time has passed."""
        return self.tell(m.Ticked(), at)

    def lease(
        self,
        id_: str,
        gib: float = 16,
        *,
        at: float | None = None,
        wait: float = 100.0,
        ttl: float = 1000.0,
        devices: Demand | None = None,
        lease_class: LeaseClass = "job",
        priority: Priority = "normal",
        caller: str = "",
    ) -> list[str]:
        """A foreign program asks for memory."""
        self.now = self.now if at is None else at
        amounts = {GPU: int(gib * GIB)} if devices is None else devices
        lease = Lease(id=id_, devices=amounts, lease_class=lease_class, holder=f"program {id_}", priority=priority)
        return self.tell(m.LeaseAsked(lease=lease, ttl_seconds=ttl, wait_until=self.now + wait, caller=caller))

    def bring_up(self, *names: str) -> None:
        """Have models loaded, ready and idle."""
        for number, name in enumerate(names):
            self.ask(f"up{number}{name}", name)
            self.ready(name)
            self.done(f"up{number}{name}")

    def phase(self, name: str) -> m.WorkerPhase:
        """Where a worker is."""
        return next(worker.phase for worker in self.decider.view(self.now).workers if worker.model == name)

    def granted_gib(self, device: str = GPU) -> float:
        """What is written down on a device."""
        view = self.decider.view(self.now)
        return next(entry.granted_bytes for entry in view.devices if entry.device.id == device) / GIB

    def refusal(self) -> m.RefuseRequest:
        """The refusal among the last effects."""
        return next(effect for effect in self.last if isinstance(effect, m.RefuseRequest))

    def lease_refusal(self) -> m.RefuseLease:
        """The refusal of a lease among the last effects."""
        return next(effect for effect in self.last if isinstance(effect, m.RefuseLease))


def short(effect: m.Effect) -> str:
    """An effect in a few words."""
    match effect:
        case m.AdmitRequest():
            return f"admit {effect.ticket}"
        case m.RefuseRequest():
            return f"refuse {effect.ticket} {effect.reason}"
        case m.GrantLease():
            return f"grant {effect.id}"
        case m.RefuseLease():
            return f"refuse {effect.id}"
        case m.EndLease():
            return f"end {effect.id}"
        case m.StartWorker():
            return f"start {effect.model}{' ' + effect.size if effect.size else ''}"
        case m.ResizeWorker():
            return f"resize {effect.model} {effect.size}"
        case m.SleepWorker():
            return f"sleep {effect.model} {effect.level}"
        case m.WakeWorker():
            return f"wake {effect.model}"
        case m.StopWorker():
            return f"stop {effect.model}"
        case _:
            raise AssertionError(effect)
