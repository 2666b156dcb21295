"""Orders to workers: how they go out, and how what the workers tell becomes facts again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, cast

import msgspec

from turnout.core.events import WorkerChanged
from turnout.core.memory import Demand
from turnout.core.words import WorkerState
from turnout.scheduler.messages import OrderFailed, WorkerAsleep, WorkerGone, WorkerReady
from turnout.tiers.base import ManagedEngine, ResizingEngine, SleepingEngine
from turnout.tiers.fleet import Fleet

WorkerEnd = WorkerReady | WorkerAsleep | WorkerGone | OrderFailed
OrderKind = Literal["start", "stop", "sleep", "wake", "resize"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker was ordered to do.

    Attributes:
        kind: The kind.
        number: The decider's; given again for an order whose end it misses.
        ordered_at: Monotonic seconds.
        level: Of a sleep.
    """

    kind: OrderKind
    number: int
    ordered_at: float
    level: int = 0


class Effects(Protocol):
    """Carries orders out. Each returns at once; its end comes back as a ``WorkerChanged`` or as a fact.

    An order may be given again while nobody has heard of its end: then how things are is said again.
    """

    def start(self, model: str, size: str, devices: Demand) -> None:
        """Start a worker."""
        ...

    def stop(self, model: str) -> None:
        """Stop a worker."""
        ...

    def sleep(self, model: str, level: int) -> None:
        """Put a worker to sleep."""
        ...

    def wake(self, model: str) -> None:
        """Wake a worker."""
        ...

    def resize(self, model: str, size: str, devices: Demand) -> None:
        """Switch a worker to another size."""
        ...


class FleetEffects:
    """Hands orders to the engines.

    Args:
        fleet: Knows them.
        tell: Takes a fact, where an order has come to its end already.
    """

    def __init__(self, fleet: Fleet, tell: Callable[[WorkerEnd], None]) -> None:
        self._fleet = fleet
        self._tell = tell

    def start(self, model: str, size: str, devices: Demand) -> None:
        """Start a worker."""
        engine = self._engine(model)
        if engine is None:
            return
        if self._state(model) == "ready":
            self._tell(WorkerReady(model=model))
        else:
            engine.start(model, size, devices)

    def stop(self, model: str) -> None:
        """Stop a worker."""
        engine = self._engine(model)
        if engine is not None:
            engine.stop(model)

    def sleep(self, model: str, level: int) -> None:
        """Put a worker to sleep."""
        engine = self._engine(model)
        if engine is None:
            return
        if not engine.capabilities.sleeps:
            self._tell(OrderFailed(model=model, reason="its engine knows no sleep"))
        elif self._state(model) == "asleep":  # no engine deepens a sleep, and what is not freed must not count as free
            self._tell(OrderFailed(model=model, reason="it sleeps already, and cannot sleep deeper"))
        else:
            cast("SleepingEngine", engine).sleep(model, level)

    def wake(self, model: str) -> None:
        """Wake a worker."""
        engine = self._engine(model)
        if engine is None:
            return
        if not engine.capabilities.sleeps:
            self._tell(OrderFailed(model=model, reason="its engine knows no sleep"))
        elif self._state(model) == "ready":
            self._tell(WorkerReady(model=model))
        else:
            cast("SleepingEngine", engine).wake(model)

    def resize(self, model: str, size: str, devices: Demand) -> None:
        """Switch a worker to another size."""
        engine = self._engine(model)
        if engine is None:
            return
        if engine.capabilities.resizes:
            cast("ResizingEngine", engine).resize(model, size, devices)
        else:
            self._tell(OrderFailed(model=model, reason="its engine cannot change its size while it runs"))

    def _engine(self, model: str) -> ManagedEngine | None:
        _, engine = self._fleet.models().get(model, (None, None))
        if engine is None:
            self._tell(WorkerGone(model=model, reason="its engine is no longer there", retry_in=None))
        return engine

    def _state(self, model: str) -> WorkerState | None:
        target = self._fleet.snapshot.targets.get(model)
        return None if target is None else target.state


def fact_of(event: WorkerChanged, order: Order | None, now: float) -> WorkerEnd | None:
    """Return what a change of a worker means for the scheduler, or None if it ends nothing.

    Args:
        event: What the engine told.
        order: What the worker was ordered last and has not ended yet.
        now: Monotonic seconds.
    """
    model = event.target
    kind, number, seconds, level = None, 0, 0.0, 1
    if order is not None:
        kind, number, seconds, level = order.kind, order.number, now - order.ordered_at, order.level
    match event.state:
        case "ready" if kind == "sleep" or (kind == "resize" and event.detail):
            return OrderFailed(model=model, reason=event.detail or "it did not fall asleep", order=number)
        case "ready" if kind == "stop":
            return None  # it became ready a moment before it heard of its end
        case "ready":
            return WorkerReady(model=model, seconds=seconds, order=number)
        case "asleep" if kind == "wake":
            return OrderFailed(model=model, reason=event.detail or "it did not wake up", order=number)
        case "asleep":
            return WorkerAsleep(model=model, level=level, seconds=seconds, order=number)
        case "failed":
            reason = event.detail or "it failed"
            return WorkerGone(model=model, reason=reason, retry_in=event.retry_in_seconds, order=number)
        case "cold":
            return WorkerGone(model=model, order=number)
        case _:
            return None
