"""Typed facts that happened, and the bus that hands them to whoever listens.

Events are the only telemetry: the log line, the live stream, the metrics and the traces all subscribe here, and each
fact is emitted once. A subscriber is a plain function that returns quickly and does not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from turnout.core.memory import Demand, Lease, Priority
from turnout.core.words import Trace, WorkerState


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events."""


class DaemonReady(Event, frozen=True, kw_only=True, tag="daemon_ready"):
    """The daemon takes requests."""

    url: str
    seconds: float


class DaemonStopping(Event, frozen=True, kw_only=True, tag="daemon_stopping"):
    """The daemon begins to drain."""

    running_requests: int
    drain_seconds: float


class WorkerChanged(Event, frozen=True, kw_only=True, tag="worker_changed"):
    """A worker went from one state to another.

    ``retry_in_seconds`` says of a failed one when another start makes sense; None if only a person can help.
    """

    target: str
    engine: str
    state: WorkerState
    detail: str = ""
    retry_in_seconds: float | None = None


class LoadProgressed(Event, frozen=True, kw_only=True, tag="load_progressed"):
    """A model is being loaded."""

    target: str
    stage: str
    fraction: float | None = None


class WorkerCrashed(Event, frozen=True, kw_only=True, tag="worker_crashed"):
    """An engine process ended by itself."""

    target: str
    exit_code: int | None
    last_lines: tuple[str, ...]
    restart_in_seconds: float | None


class BreakerChanged(Event, frozen=True, kw_only=True, tag="breaker_changed"):
    """A target's circuit breaker opened or closed."""

    target: str
    is_open: bool
    reason: str
    retry_in_seconds: float = 0.0


class DefaultChosen(Event, frozen=True, kw_only=True, tag="default_chosen"):
    """The target that ``auto`` means was chosen."""

    target: str
    reason: str


class RequestFinished(Event, frozen=True, kw_only=True, tag="request_finished", gc=False):
    """A request reached its end, whatever end."""

    trace: Trace


class TracesDegraded(Event, frozen=True, kw_only=True, tag="traces_degraded"):
    """The trace file cannot be written; requests go on, their traces stay in memory only."""

    reason: str
    dropped: int


class WorkerOrdered(Event, frozen=True, kw_only=True, tag="worker_ordered"):
    """The scheduler ordered a worker to start, stop, sleep, wake up or change its size."""

    target: str
    order: Literal["start", "stop", "sleep", "wake", "resize"]
    size: str = ""
    devices: Demand = {}
    reason: str = ""


class OrderOverdue(Event, frozen=True, kw_only=True, tag="order_overdue"):
    """A worker has not done in time what it was ordered to; it is ended. Its memory stays counted until it is gone."""

    target: str
    order: str
    seconds: float


class RequestWaiting(Event, frozen=True, kw_only=True, tag="request_waiting"):
    """A request has to wait for its turn at a model."""

    ticket: str
    target: str
    priority: Priority
    position: int
    expected_wait_seconds: float | None = None


class RequestAdmitted(Event, frozen=True, kw_only=True, tag="request_admitted"):
    """A request that had to wait may go to its model. Those that need not wait are not told."""

    ticket: str
    target: str
    waited_seconds: float


class RequestTurnedAway(Event, frozen=True, kw_only=True, tag="request_turned_away"):
    """A request will not be served by this model."""

    ticket: str
    target: str
    reason: str
    message: str
    waited_seconds: float


class LeaseGranted(Event, frozen=True, kw_only=True, tag="lease_granted"):
    """A foreign program may use memory from now on; ``is_adopted`` if an earlier daemon had granted it."""

    lease: Lease
    waited_seconds: float = 0.0
    is_adopted: bool = False


class LeaseEnded(Event, frozen=True, kw_only=True, tag="lease_ended"):
    """A lease holds no more."""

    lease: Lease
    reason: str


class JobMemoryKept(Event, frozen=True, kw_only=True, tag="job_memory_kept"):
    """A program was asked to free its memory and has not done so; its lease goes on."""

    holder: str
    tries: int


class JournalFailed(Event, frozen=True, kw_only=True, tag="journal_failed"):
    """The leases cannot be written down: what was not, the next daemon will not know."""

    reason: str


class ProfileStep(Event, frozen=True, kw_only=True, tag="profile_step"):
    """A switch of the profile has come so far; ``profile`` is where the step leads."""

    profile: str
    step: str


Subscriber = Callable[[Event], None]
Emit = Callable[[Event], None]


class EventBus:
    """Hands every event to every subscriber, in order, in the emitter's own call."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[Subscriber, tuple[type[Event], ...]]] = []
        self._by_kind: dict[type[Event], list[Subscriber]] = {}

    def subscribe(self, subscriber: Subscriber, *kinds: type[Event]) -> None:
        """Add a listener.

        Args:
            subscriber: Called with every later event; must not raise or block.
            kinds: Only these; all if none is named.
        """
        self._subscribers.append((subscriber, kinds))
        self._by_kind = {}

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a listener that was added before."""
        for entry in self._subscribers:
            if entry[0] == subscriber:
                self._subscribers.remove(entry)
                self._by_kind = {}
                return
        raise ValueError(f"{subscriber!r} does not listen")

    def emit(self, event: Event) -> None:
        """Tell everybody.

        Args:
            event: What happened.
        """
        kind = type(event)
        listeners = self._by_kind.get(kind)
        if listeners is None:
            listeners = [subscriber for subscriber, kinds in self._subscribers if not kinds or kind in kinds]
            self._by_kind[kind] = listeners
        for listener in listeners:
            listener(event)
