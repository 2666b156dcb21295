"""What a scheduler is told (facts) and what it orders (effects): values that ``decide.py`` turns into one another.

Whoever drives a scheduler (``loop.py`` in the daemon, ``simulate/`` on virtual time) hands it one fact at a time with
the current monotonic time, carries the effects out in their order, and reports their ends as further facts. Slow work
is bracketed by two facts: an order goes out, its end comes back.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from turnout.core.memory import Demand, Device, Lease, LeaseClass, Model, Priority

WorkerPhase = Literal[
    "cold", "loading", "ready", "falling_asleep", "asleep", "waking", "resizing", "stopping", "failed"
]
RefusalReason = Literal["queue_full", "deadline", "too_large", "failed", "removed", "stopping"]


# Facts


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """Base of what a scheduler is told."""


class ModelAdded(Fact, frozen=True, kw_only=True, tag="model_added"):
    """A model may be used from now on; one of the same name is replaced (its worker stays if it fits the new words)."""

    model: Model


class ModelRemoved(Fact, frozen=True, kw_only=True, tag="model_removed"):
    """A model may not be used any more: what waits is refused, what runs may end, then its worker is stopped."""

    name: str


class UnloadAsked(Fact, frozen=True, kw_only=True, tag="unload_asked"):
    """Somebody wants a model's worker to end: who runs may go on to the end, who waits is served by the next one."""

    model: str


class RequestArrived(Fact, frozen=True, kw_only=True, tag="request_arrived"):
    """Somebody wants to use a model.

    Attributes:
        ticket: Unique; every later fact and effect names it.
        model: The target.
        priority: How urgent.
        caller: Whom fairness counts: a key, a session.
        deadline: Monotonic seconds after which an admission is useless.
        least_quality: The smallest ``Size.quality`` that will do.
        expected_seconds: How long it will run once admitted, if somebody can tell; for expected waits only.
        keep_seconds: From its admission on the worker is put away when it has been idle for so long; below 0 never by
            itself, None as before.
    """

    ticket: str
    model: str
    priority: Priority = "normal"
    caller: str = ""
    deadline: float | None = None
    least_quality: int = 0
    expected_seconds: float | None = None
    keep_seconds: float | None = None


class RequestLeft(Fact, frozen=True, kw_only=True, tag="request_left"):
    """The caller of a waiting request has gone. For an admitted one it means ``RequestFinished``."""

    ticket: str


class RequestFinished(Fact, frozen=True, kw_only=True, tag="request_finished"):
    """An admitted request has ended, however."""

    ticket: str


class LeaseAsked(Fact, frozen=True, kw_only=True, tag="lease_asked"):
    """A foreign program wants memory.

    Attributes:
        lease: As it shall be granted (``granted_at`` and ``expires_at`` are set by whoever carries the grant out).
        ttl_seconds: How long it lasts without a renewal.
        wait_until: Monotonic seconds until which it will wait; the time of asking for an answer at once.
        caller: Whom fairness counts.
    """

    lease: Lease
    ttl_seconds: float
    wait_until: float
    caller: str = ""


class LeaseAdopted(Fact, frozen=True, kw_only=True, tag="lease_adopted"):
    """After a restart: a foreign lease that the journal knows and whose holder may still be there. It holds, whatever
    room there is.

    Attributes:
        lease: As journalled.
        expires_in: Seconds from now.
    """

    lease: Lease
    expires_in: float


class LeaseRenewed(Fact, frozen=True, kw_only=True, tag="lease_renewed"):
    """A holder is still there."""

    id: str
    ttl_seconds: float


class LeaseReleased(Fact, frozen=True, kw_only=True, tag="lease_released"):
    """A holder, or whoever waited for a lease, has gone."""

    id: str


class WorkerReady(Fact, frozen=True, kw_only=True, tag="worker_ready"):
    """A worker is ready after a start, a wake or a change of size.

    Attributes:
        model: The target.
        seconds: How long that took; 0 or less is not learnt from.
        order: Number of the order that has ended so; 0 if nobody knows. A late or doubled fact about an earlier order
            is told by its number, and ignored.
    """

    model: str
    seconds: float = 0.0
    order: int = 0


class WorkerAsleep(Fact, frozen=True, kw_only=True, tag="worker_asleep"):
    """A worker has fallen asleep; ``order`` as in ``WorkerReady``."""

    model: str
    level: int
    seconds: float = 0.0
    order: int = 0


class WorkerGone(Fact, frozen=True, kw_only=True, tag="worker_gone"):
    """There is no worker (any more): it was stopped, its start failed, or it died.

    Attributes:
        model: The target.
        reason: Empty if it was stopped as ordered.
        retry_in: Seconds before another start makes sense; None if only a person can help.
        order: Number of the last order that is known to have reached it; 0 if nobody knows.
    """

    model: str
    reason: str = ""
    retry_in: float | None = 0.0
    order: int = 0


class OrderFailed(Fact, frozen=True, kw_only=True, tag="order_failed"):
    """A worker could not be put to sleep, woken or resized; it is as it was before (asleep or ready). ``order`` as in
    ``WorkerReady``.
    """

    model: str
    reason: str
    order: int = 0


class Measured(Fact, frozen=True, kw_only=True, tag="measured"):
    """Memory in use now. May only delay a grant, never allow one.

    Attributes:
        device: Its id.
        used_bytes: By everybody.
        by_holder: By model or lease id, as far as somebody can tell.
    """

    device: str
    used_bytes: int
    by_holder: Demand = {}


class Stopping(Fact, frozen=True, kw_only=True, tag="stopping"):
    """The daemon closes: everything that waits is refused, nothing new is granted."""


class Ticked(Fact, frozen=True, kw_only=True, tag="ticked"):
    """Time has passed: the moment that ``Scheduler.next_at`` named has come."""


# Effects


class Effect(msgspec.Struct, frozen=True, kw_only=True, tag_field="effect"):
    """Base of what a scheduler orders."""


class StartWorker(Effect, frozen=True, kw_only=True, tag="start_worker"):
    """Start a worker; ends with ``WorkerReady`` or ``WorkerGone``. The lease is journalled before the act.

    Like all orders to workers it has a number, which the fact that ends it may name. An order without an end is given
    again with the same number: whoever carries it out looks how things are, and says so.
    """

    model: str
    size: str
    devices: Demand
    order: int = 0


class StopWorker(Effect, frozen=True, kw_only=True, tag="stop_worker"):
    """Stop a worker; ends with ``WorkerGone``."""

    model: str
    reason: str
    order: int = 0


class SleepWorker(Effect, frozen=True, kw_only=True, tag="sleep_worker"):
    """Put a worker to sleep; ends with ``WorkerAsleep``, ``OrderFailed`` or ``WorkerGone``."""

    model: str
    level: int
    devices: Demand
    reason: str
    order: int = 0


class WakeWorker(Effect, frozen=True, kw_only=True, tag="wake_worker"):
    """Wake a worker; ends with ``WorkerReady``, ``OrderFailed`` or ``WorkerGone``."""

    model: str
    devices: Demand
    order: int = 0


class ResizeWorker(Effect, frozen=True, kw_only=True, tag="resize_worker"):
    """Switch a running worker to another size; ends with ``WorkerReady``, ``OrderFailed`` or ``WorkerGone``."""

    model: str
    size: str
    devices: Demand
    reason: str
    order: int = 0


class AdmitRequest(Effect, frozen=True, kw_only=True, tag="admit_request"):
    """A request may go to its worker now."""

    ticket: str
    model: str


class RefuseRequest(Effect, frozen=True, kw_only=True, tag="refuse_request"):
    """A request will not be served here.

    Attributes:
        ticket: Whose.
        reason: The kind.
        message: In words, with what a person can do.
        retry_after_seconds: When another try makes sense, if that is known.
    """

    ticket: str
    reason: RefusalReason
    message: str
    retry_after_seconds: float | None = None


class GrantLease(Effect, frozen=True, kw_only=True, tag="grant_lease"):
    """A foreign lease is granted from now on."""

    id: str
    ttl_seconds: float


class RefuseLease(Effect, frozen=True, kw_only=True, tag="refuse_lease"):
    """A foreign lease was not granted in time.

    Attributes:
        id: Whose.
        position: Its place in the line when it gave up, counted from 1.
        expected_wait_seconds: How much longer it would have been, if that can be told.
        message: In words.
        too_large: It will never fit.
    """

    id: str
    position: int
    message: str
    expected_wait_seconds: float | None = None
    too_large: bool = False


class EndLease(Effect, frozen=True, kw_only=True, tag="end_lease"):
    """A foreign lease has expired; its memory is free at once."""

    id: str
    reason: str


# What can be seen


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One model as the scheduler sees it.

    Attributes:
        model: The target.
        phase: Where its worker is.
        lease_class: How it may be treated.
        size: Name of the size that is loaded.
        devices: Bytes granted.
        measured: Bytes in use at the last look, where somebody can tell.
        running: Requests.
        waiting: Requests.
        load_seconds: A load from cold.
        wake_seconds: A wake from its sleep; None if it cannot sleep.
        idle_seconds: So long it stays while nobody uses it; None if that is for the room to decide.
        put_away_in_seconds: From now until it is put away, if nobody uses it; None if that is not due.
        is_unloading: It ends when nothing runs on it.
        detail: In words.
    """

    model: str
    phase: WorkerPhase
    lease_class: LeaseClass
    size: str = ""
    devices: Demand = {}
    measured: Demand = {}
    running: int = 0
    waiting: int = 0
    load_seconds: float = 0.0
    wake_seconds: float | None = None
    idle_seconds: float | None = None
    put_away_in_seconds: float | None = None
    is_unloading: bool = False
    detail: str = ""


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the scheduler sees it.

    Attributes:
        device: What it is.
        granted_bytes: By leases.
        measured_bytes: In use at the last look; None if nobody can look.
        unattributed_bytes: In use, but by nobody who holds a lease.
        free_bytes: What could be granted now.
    """

    device: Device
    granted_bytes: int
    measured_bytes: int | None
    unattributed_bytes: int
    free_bytes: int


class WaitingView(msgspec.Struct, frozen=True, kw_only=True):
    """One request or lease that waits.

    Attributes:
        id: Ticket or lease id.
        model: The target; empty for a lease.
        priority: How urgent.
        position: Its place in the line, from 1.
        waited_seconds: So far.
        expected_wait_seconds: From now, if that can be told.
    """

    id: str
    model: str
    priority: Priority
    position: int
    waited_seconds: float
    expected_wait_seconds: float | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, for ``ps``, ``top``, errors and pictures. Costs time in proportion to what there is."""

    devices: tuple[DeviceView, ...]
    workers: tuple[WorkerView, ...]
    leases: tuple[Lease, ...]
    waiting: tuple[WaitingView, ...]


class Scheduler(Protocol):
    """What every scheduler is: ours (``decide.Decider``), and in ``simulate/`` those of others for comparison."""

    def decide(self, fact: Fact, now: float) -> list[Effect]:
        """Take a fact in and return what has to be done, in this order.

        Args:
            fact: What happened.
            now: Monotonic seconds, never going back.
        """
        ...

    def next_at(self) -> float | None:
        """Return when a ``Ticked`` is due at the latest (an expiry, a deadline, an aging bound), or None."""
        ...

    def position(self, ticket: str, now: float) -> WaitingView | None:
        """Return where a waiting request or lease stands, or None if it does not wait."""
        ...

    def view(self, now: float) -> View:
        """Return everything as it is."""
        ...
