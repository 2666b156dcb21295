"""A scheduler's shell with everything real but the engine: its workers do what the test says, when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from support.samples import a_target
from turnout.core.clock import Clock, SystemClock
from turnout.core.events import Event, EventBus, WorkerChanged
from turnout.core.memory import GIB, HOST_RAM, Demand, Device, DeviceReading, Model, Size, SleepLevel
from turnout.core.words import Origin, Target, WorkerState
from turnout.scheduler.decide import Decider
from turnout.scheduler.journal import LeaseJournal
from turnout.scheduler.leases import LeaseWish
from turnout.scheduler.loop import SchedulerLoop
from turnout.scheduler.pins import Pins
from turnout.scheduler.settings import SchedulerSettings
from turnout.tiers.base import Call, Capabilities, LiveWorker, ModelSettings
from turnout.tiers.fleet import Fleet
from turnout.tiers.transport import HttpResponse

CARD = "host/gpu0"
PATIENCE_SECONDS = 10.0
"""Every wait of a test; a hang is a failure, not a slow test."""


def a_model(name: str = "local/a", gib: float = 16, **facts: Any) -> Model:
    """Return a model of one size on the card that may be put away at once."""
    size = Size(devices={CARD: int(gib * GIB)} if gib else {}, load_seconds=0.1)
    return msgspec.structs.replace(Model(name=name, sizes=(size,), min_residency_seconds=0.0), **facts)


def a_wish(gib: float = 16, **facts: Any) -> LeaseWish:
    """Return what somebody asks for who wants a part of the card."""
    base = LeaseWish(devices={CARD: int(gib * GIB)}, lease_class="job", holder="painter", ttl_seconds=30.0)
    return msgspec.structs.replace(base, **facts)


class HandEngine:
    """An engine whose workers the test holds in its hand; orders are noted.

    Args:
        tell: Takes what changes.
        models: What it serves.
    """

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=True, loads_on_demand=True, takes_orders=True)

    def __init__(self, name: str, settings: Any, context: Any, origin: Origin = "configured") -> None:
        self.name = name
        self.wanted: list[Model] = settings
        self.tell: Callable[[Event], None] = context
        self.states: dict[str, WorkerState] = {}
        self.orders: list[tuple[Any, ...]] = []
        self.pids: dict[str, int] = {}
        self.is_eager = True
        """Orders come to their end at once, while they are given."""

    def targets(self) -> tuple[Target, ...]:
        return tuple(a_target(m.name, state=self.states.get(m.name, "cold")) for m in self.wanted)

    def models(self) -> tuple[Model, ...]:
        return tuple(self.wanted)

    def workers(self) -> tuple[LiveWorker, ...]:
        sizes = {model.name: model.sizes[0].devices for model in self.wanted}
        return tuple(LiveWorker(target=t, pid=pid, devices=sizes.get(t, {})) for t, pid in self.pids.items())

    def became(self, target: str, state: WorkerState, detail: str = "", retry_in: float | None = None) -> None:
        """Let a worker change."""
        self.states[target] = state
        event = WorkerChanged(target=target, engine="hand", state=state, detail=detail, retry_in_seconds=retry_in)
        self.tell(event)

    def start(self, target: str, size: str, devices: Demand) -> None:
        self.orders.append(("start", target, size, devices))
        if self.is_eager:
            self.became(target, "ready")

    def stop(self, target: str) -> None:
        self.orders.append(("stop", target))
        if self.is_eager:
            self.became(target, "cold")

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait_known(self) -> None:
        return

    async def ready(self, target: str) -> None:
        return

    def wish(self, target: str) -> None:
        return

    async def send(self, target: Target, call: Call) -> HttpResponse:
        raise NotImplementedError


class SleepyEngine(HandEngine):
    """One whose workers sleep and change their size, too."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        owns_process=True, loads_on_demand=True, takes_orders=True, sleeps=True, resizes=True
    )

    def sleep(self, target: str, level: int) -> None:
        self.orders.append(("sleep", target, level))
        if self.is_eager:
            self.became(target, "asleep")

    def wake(self, target: str) -> None:
        self.orders.append(("wake", target))
        if self.is_eager:
            self.became(target, "ready")

    def resize(self, target: str, size: str, devices: Demand) -> None:
        self.orders.append(("resize", target, size, devices))
        if self.is_eager:
            self.became(target, "ready")


class HandReader:
    """Measures what the test says."""

    def __init__(self) -> None:
        self.readings: dict[str, DeviceReading] = {}

    def devices(self) -> tuple[Device, ...]:
        return ()

    def read(self) -> tuple[DeviceReading, ...]:
        return tuple(self.readings.values())


class Shell:
    """The shell and what it acts on.

    Args:
        root: For the journal.
        models: Of the one engine.
        engine: Which.
        gib: Of the card.
        clock: Time.
        settings: Of the scheduler.
    """

    def __init__(
        self,
        root: Path,
        *models: Model,
        engine: type[HandEngine] = HandEngine,
        gib: float = 28,
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        self.events: list[Event] = []
        self.news = asyncio.Event()
        self.bus = EventBus()
        self.fleet = Fleet({}, {})
        self.engine = engine("hand", list(models), self.bus.emit)
        self.fleet.add(self.engine)
        self.bus.subscribe(lambda _: self.fleet.changed(), WorkerChanged)
        self.reader = HandReader()
        self.clock = clock or SystemClock()
        devices = (
            Device(id=CARD, kind="simulated", total_bytes=int(gib * GIB)),
            Device(id=HOST_RAM, kind="ram", total_bytes=64 * GIB),
        )
        self.journal = LeaseJournal(root / "leases.journal")
        self.loop = SchedulerLoop(
            Decider(devices, settings=SchedulerSettings(**settings)),
            self.fleet,
            self.journal,
            [self.reader],
            self.clock,
            self.bus.emit,
            queue_seconds=PATIENCE_SECONDS,
            load_seconds=0.0,
            pins=Pins(root / "pins.json"),
            look_seconds=0.01,
        )
        self.bus.subscribe(self.loop.hear, WorkerChanged)
        self.bus.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()

    def told(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def heard(self, kind: type[Event], count: int = 1) -> Any:
        """Wait until there are so many events of a kind; return the newest of them."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.told(kind)) < count:
                self.news.clear()
                await self.news.wait()
        return self.told(kind)[-1]

    def free_gib(self) -> float:
        """Return what could be granted of the card."""
        (card,) = [entry for entry in self.loop.view().devices if entry.device.id == CARD]
        return card.free_bytes / GIB


@asynccontextmanager
async def running(shell: Shell) -> AsyncIterator[Shell]:
    """Let a shell live."""
    shell.loop.begin()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        life = tasks.create_task(shell.loop.run())
        try:
            yield shell
        finally:
            life.cancel()
            shell.loop.close()


NAP = SleepLevel(level=1, devices={HOST_RAM: GIB}, sleep_seconds=1e-6, wake_seconds=1e-6)
"""Quicker than the quickest load, or nobody would ever sleep."""
