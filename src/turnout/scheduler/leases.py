"""Who holds memory now, and who waits for some: foreign leases with their times, and the journal behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from turnout.core.clock import Clock
from turnout.core.errors import Busy, LeaseTooLarge, NotFound, NotGranted, SetupError, ShuttingDown, TurnoutError
from turnout.core.events import Emit, JournalFailed, LeaseEnded, LeaseGranted
from turnout.core.ids import new_lease_id
from turnout.core.memory import Demand, Lease, LeaseClass, Priority
from turnout.scheduler.journal import Entry, LeaseJournal
from turnout.scheduler.messages import (
    EndLease,
    Fact,
    GrantLease,
    LeaseAdopted,
    LeaseAsked,
    LeaseReleased,
    LeaseRenewed,
    RefuseLease,
    WaitingView,
)

PROGRESS_SECONDS = 1.0
T = TypeVar("T")
Progress = Callable[[WaitingView], Awaitable[None]]


class LeaseWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a foreign program asks for.

    Attributes:
        devices: Bytes on each device.
        lease_class: How it may be treated.
        holder: Who it is, in its own words.
        priority: Of the waiting.
        ttl_seconds: How long it lasts without a renewal.
        wait_seconds: How long it will wait.
        process: The holder's process on this machine, 0 if unknown.
    """

    devices: Demand
    lease_class: LeaseClass
    holder: str
    ttl_seconds: float
    priority: Priority = "normal"
    wait_seconds: float = 0.0
    process: int = 0


class Line(Protocol):
    """The scheduler as the leases need it."""

    def tell(self, fact: Fact) -> None:
        """Take a fact in and carry out what follows."""
        ...

    def position(self, ticket: str) -> WaitingView | None:
        """Return where somebody stands who waits."""
        ...


class _Ask:
    __slots__ = ("answer", "asked_at", "lease")

    def __init__(self, lease: Lease, answer: asyncio.Future[Lease], asked_at: float) -> None:
        self.lease = lease
        self.answer = answer
        self.asked_at = asked_at


class LeaseBook:
    """The leases.

    Args:
        journal: Where they are written down before they count.
        line: The scheduler.
        clock: Time.
        emit: Tells everybody about a fact.
        holders: Returns who holds what on some devices, for a refusal.
    """

    def __init__(
        self,
        journal: LeaseJournal,
        line: Line,
        clock: Clock,
        emit: Emit,
        holders: Callable[[Demand], list[dict[str, object]]],
    ) -> None:
        self._journal = journal
        self._line = line
        self._clock = clock
        self._emit = emit
        self._holders = holders
        self._leases: dict[str, Lease] = {}
        self._workers: dict[str, Lease] = {}
        self._asks: dict[str, _Ask] = {}

    def adopt(self) -> None:
        """Take over what the journal knows: leases that hold, and workers that ended with the daemon before this one.

        Raises:
            SetupError: The journal cannot be read or begun.
        """
        for entry in self._journal.open():
            lease, reason = entry.lease, self._why_void(entry)
            if reason:
                self._write(partial(self._journal.end, lease.id))
                self._emit(LeaseEnded(lease=lease, reason=reason))
                continue
            self._leases[lease.id] = lease
            expires_in = (lease.expires_at or 0.0) - self._clock.wall_seconds()
            self._emit(LeaseGranted(lease=lease, is_adopted=True))
            self._line.tell(LeaseAdopted(lease=lease, expires_in=expires_in))

    def _why_void(self, entry: Entry) -> str:
        if entry.lease.model:
            return "the worker ended with its daemon"
        if entry.has_lost_its_process:
            return f"its process {entry.lease.process} is gone"
        if (entry.lease.expires_at or 0.0) <= self._clock.wall_seconds():
            return "it expired while no daemon ran"
        return ""

    # What foreign programs do

    async def ask(self, wish: LeaseWish, on_progress: Progress | None = None) -> Lease:
        """Return a lease as soon as it is granted. Whoever stops waiting leaves the line.

        Args:
            wish: What is wanted.
            on_progress: Called about once a second while it waits.

        Raises:
            NotGranted: Not in time; says who holds what.
            LeaseTooLarge: Never.
            Busy: The lease cannot be written down, or the daemon stops.
        """
        lease = Lease(
            id=new_lease_id(),
            devices=wish.devices,
            lease_class=wish.lease_class,
            holder=wish.holder,
            priority=wish.priority,
            process=wish.process,
        )
        now = self._clock.monotonic_seconds()
        ask = self._asks[lease.id] = _Ask(lease, asyncio.get_running_loop().create_future(), now)
        fact = LeaseAsked(
            lease=lease, ttl_seconds=wish.ttl_seconds, wait_until=now + wish.wait_seconds, caller=wish.holder
        )
        try:
            self._line.tell(fact)
            return await patiently(ask.answer, lambda: self._line.position(lease.id), on_progress)
        except TurnoutError:
            raise
        except BaseException:  # whoever asked has left, granted or not
            self._drop(lease.id, "whoever asked for it has left")
            raise
        finally:
            self._asks.pop(lease.id, None)
            if ask.answer.done() and not ask.answer.cancelled():
                ask.answer.exception()  # somebody has looked at it

    def renew(self, lease_id: str, ttl_seconds: float) -> Lease:
        """Let a lease last so long from now on, and return it.

        Raises:
            NotFound: It does not hold (any more).
        """
        lease = self._known(lease_id)
        lease = msgspec.structs.replace(lease, expires_at=self._clock.wall_seconds() + ttl_seconds)
        self._leases[lease_id] = lease
        self._write(partial(self._journal.renew, lease_id, lease.expires_at or 0.0))
        self._line.tell(LeaseRenewed(id=lease_id, ttl_seconds=ttl_seconds))
        return self._known(lease_id)

    def release(self, lease_id: str, reason: str = "released") -> Lease:
        """Give a lease back and return it as it was.

        Raises:
            NotFound: It does not hold (any more).
        """
        lease = self._known(lease_id)
        self._drop(lease_id, reason)
        return lease

    # tiers.base.LeaseTaker: for engines that watch a program of somebody else

    async def take(
        self, holder: str, devices: Demand, lease_class: LeaseClass, ttl_seconds: float, wait_seconds: float
    ) -> Lease:
        """Return a lease as soon as it is granted; see ``ask``."""
        wish = LeaseWish(
            devices=devices, lease_class=lease_class, holder=holder, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds
        )
        return await self.ask(wish)

    def keep(self, lease_id: str, ttl_seconds: float) -> bool:
        """Let a lease last so long from now on; False if it has ended."""
        if lease_id not in self._leases:
            return False
        self.renew(lease_id, ttl_seconds)
        return True

    def give_back(self, lease_id: str) -> None:
        """End a lease, if it has not ended yet."""
        if lease_id in self._leases:
            self.release(lease_id)

    def all(self) -> list[Lease]:
        """Return what holds, oldest first."""
        return list(self._leases.values())

    def find(self, lease_id: str) -> Lease | None:
        """Return a lease that holds or is asked for."""
        ask = self._asks.get(lease_id)
        return self._leases.get(lease_id) or (ask.lease if ask is not None else None)

    def processes(self) -> dict[int, str]:
        """Return the leases by their holder's process; also called from other threads."""
        return {lease.process: lease.id for lease in list(self._leases.values()) if lease.process}

    # What the scheduler decides

    def granted(self, effect: GrantLease) -> None:
        """Write a grant down, then tell whoever waits for it."""
        ask = self._asks.get(effect.id)
        if ask is None or ask.answer.done():
            self._line.tell(LeaseReleased(id=effect.id))
            return
        now = self._clock.wall_seconds()
        lease = msgspec.structs.replace(ask.lease, granted_at=now, expires_at=now + effect.ttl_seconds)
        try:
            self._journal.hold(lease)
        except SetupError as error:
            self._emit(JournalFailed(reason=error.message))
            self._line.tell(LeaseReleased(id=effect.id))
            ask.answer.set_exception(Busy(f"the lease cannot be written down: {error.message}", hint=error.hint))
            return
        self._leases[lease.id] = lease
        self._emit(LeaseGranted(lease=lease, waited_seconds=self._clock.monotonic_seconds() - ask.asked_at))
        ask.answer.set_result(lease)

    def refused(self, effect: RefuseLease, *, is_stopping: bool = False) -> None:
        """Tell whoever waits why there is no lease.

        Args:
            effect: The decision.
            is_stopping: The daemon closes.
        """
        ask = self._asks.get(effect.id)
        if ask is None or ask.answer.done():
            return
        error: TurnoutError
        if effect.too_large:
            error = LeaseTooLarge(effect.message, hint="`turnout ps` shows the devices; ask for less", param="devices")
        elif is_stopping:
            error = ShuttingDown("turnout is shutting down", hint="ask again when it has been started again")
        else:
            error = NotGranted(
                effect.message,
                position=effect.position,
                expected_wait_seconds=effect.expected_wait_seconds,
                holders=self._holders(ask.lease.devices),
                hint="a larger wait_seconds waits for its turn; `turnout lease ls` shows who holds what",
            )
        ask.answer.set_exception(error)

    def ended(self, effect: EndLease) -> None:
        """Note that a lease has expired."""
        self._forget(effect.id, effect.reason)

    def worker_starts(self, model: str, devices: Demand, lease_class: LeaseClass) -> None:
        """Write down that a worker of ours will use memory; where that fails, the worker starts all the same."""
        held = self._workers.get(model)
        lease = Lease(
            id=held.id if held is not None else new_lease_id(),
            devices=devices,
            lease_class=lease_class,
            holder=model,
            model=model,
            granted_at=self._clock.wall_seconds(),
        )
        self._workers[model] = lease
        self._write(partial(self._journal.hold, lease))

    def worker_gone(self, model: str) -> None:
        """Write down that a worker of ours uses nothing any more."""
        lease = self._workers.pop(model, None)
        if lease is not None:
            self._write(partial(self._journal.end, lease.id))

    # What they share

    def _known(self, lease_id: str) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise NotFound(
                f"there is no lease {lease_id!r}",
                code="lease_not_found",
                hint="it was released or has expired; `turnout lease ls` shows those that hold",
            )
        return lease

    def _drop(self, lease_id: str, reason: str) -> None:
        self._forget(lease_id, reason)
        self._line.tell(LeaseReleased(id=lease_id))

    def _forget(self, lease_id: str, reason: str) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            self._write(partial(self._journal.end, lease_id))
            self._emit(LeaseEnded(lease=lease, reason=reason))

    def _write(self, act: Callable[[], None]) -> None:
        try:
            act()
        except SetupError as error:
            self._emit(JournalFailed(reason=error.message))


async def patiently(
    answer: asyncio.Future[T], position: Callable[[], WaitingView | None], on_progress: Progress | None
) -> T:
    """Wait for an answer and say about once a second how the waiting goes.

    Args:
        answer: What is waited for; cancelled with whoever waits.
        position: Returns where the waiting stands.
        on_progress: Takes it; None to wait in silence.
    """
    while on_progress is not None and not answer.done():
        place = position()
        if place is not None:
            await on_progress(place)
        await asyncio.wait((answer,), timeout=PROGRESS_SECONDS)
    return await answer
