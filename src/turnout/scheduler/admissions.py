"""Turns at models: a request enters, is admitted at once or waits, and says when it has ended."""

from __future__ import annotations

import asyncio

from turnout.core.clock import Clock
from turnout.core.errors import (
    DoesNotFit,
    LoadFailed,
    NotInTime,
    QueueFull,
    ShuttingDown,
    TurnoutError,
)
from turnout.core.events import Emit, RequestAdmitted, RequestTurnedAway, RequestWaiting
from turnout.core.memory import Model, Priority
from turnout.scheduler.leases import Line, Progress, patiently
from turnout.scheduler.messages import AdmitRequest, RefuseRequest, RequestArrived, RequestFinished, RequestLeft

WISH_SECONDS = 30.0
"""A model that nobody asks for is not worth a longer wait: whoever needs it will ask."""


class _Ticket:
    __slots__ = ("answer", "arrived_at", "error", "is_admitted", "is_wish", "target")

    def __init__(self, target: str, arrived_at: float, *, is_wish: bool = False) -> None:
        self.target = target
        self.arrived_at = arrived_at
        self.is_wish = is_wish
        self.is_admitted = False
        self.error: TurnoutError | None = None
        self.answer: asyncio.Future[None] | None = None


class Admissions:
    """Who may go to a model now.

    Only models of managed engines have turns; for every other target the answer is always yes.

    Args:
        line: The scheduler.
        clock: Time.
        emit: Tells everybody about a fact.
        queue_seconds: How long a request waits where it does not say.
    """

    def __init__(self, line: Line, clock: Clock, emit: Emit, queue_seconds: float) -> None:
        self._line = line
        self._clock = clock
        self._emit = emit
        self._queue_seconds = queue_seconds
        self._tickets: dict[str, _Ticket] = {}
        self._wishes: dict[str, str] = {}
        self._failures: dict[str, tuple[float, str]] = {}
        self._count = 0
        self.models: dict[str, Model] = {}
        """The models that have turns; kept up by the loop."""

    def manages(self, target: str) -> bool:
        """Return whether requests for a target have turns."""
        return target in self.models

    def try_admit(
        self,
        ticket: str,
        target: str,
        priority: Priority = "normal",
        caller: str = "",
        deadline_seconds: float | None = None,
        *,
        least_quality: int = 0,
        expected_seconds: float | None = None,
        keep_seconds: float | None = None,
    ) -> bool:
        """Enter the line; return whether the request may go to its model at once.

        If not, ``wait`` with the same ticket comes next. Either way ``finished`` ends it.

        Args:
            ticket: Unique among all requests.
            target: The model.
            priority: How urgent.
            caller: Whom fairness counts: a key, a session.
            deadline_seconds: How long an admission is of use, from now.
            least_quality: The smallest size that will do, where the model has several.
            expected_seconds: How long it will run, if somebody can tell.
            keep_seconds: How long an idle worker is kept from then on; below 0 for no end, None as before.

        Raises:
            QueueFull: Too many wait already.
            LoadFailed: The model cannot be loaded, or never fits.
            ShuttingDown: The daemon closes.
        """
        if target not in self.models:
            return True
        now = self._clock.monotonic_seconds()
        if target in self._failures and (error := self._failure_of(target, now)) is not None:
            raise error
        entry = self._tickets[ticket] = _Ticket(target, now)
        self._line.tell(
            RequestArrived(
                ticket=ticket,
                model=target,
                priority=priority,
                caller=caller,
                deadline=now + (self._queue_seconds if deadline_seconds is None else deadline_seconds),
                least_quality=least_quality,
                expected_seconds=expected_seconds,
                keep_seconds=keep_seconds,
            )
        )
        if entry.error is not None:
            del self._tickets[ticket]
            raise entry.error
        return entry.is_admitted

    async def wait(self, ticket: str, priority: Priority = "normal", on_progress: Progress | None = None) -> None:
        """Return when a request that entered may go to its model. Whoever stops waiting leaves the line.

        Args:
            ticket: As given to ``try_admit``.
            priority: As given there, for the event.
            on_progress: Called at once and about every second with its place in the line.

        Raises:
            QueueFull: Too many more urgent ones came.
            NotInTime: Its deadline passed.
            LoadFailed: The model cannot be loaded.
            ShuttingDown: The daemon closes.
        """
        entry = self._tickets[ticket]
        if entry.error is not None:
            del self._tickets[ticket]
            raise entry.error
        if entry.is_admitted:
            return
        place = self._line.position(ticket)
        self._emit(
            RequestWaiting(
                ticket=ticket,
                target=entry.target,
                priority=priority,
                position=place.position if place is not None else 1,
                expected_wait_seconds=place.expected_wait_seconds if place is not None else None,
            )
        )
        entry.answer = asyncio.get_running_loop().create_future()
        try:
            await patiently(entry.answer, lambda: self._line.position(ticket), on_progress)
        except BaseException:  # refused, or whoever asked has left
            self.finished(ticket)
            raise
        finally:
            if entry.answer.done() and not entry.answer.cancelled():
                entry.answer.exception()  # somebody has looked at it
        waited_seconds = self._clock.monotonic_seconds() - entry.arrived_at
        self._emit(RequestAdmitted(ticket=ticket, target=entry.target, waited_seconds=waited_seconds))

    async def admit(
        self,
        ticket: str,
        target: str,
        priority: Priority = "normal",
        caller: str = "",
        deadline_seconds: float | None = None,
        on_progress: Progress | None = None,
        *,
        keep_seconds: float | None = None,
    ) -> None:
        """Return when a request may go to its model; see ``try_admit`` and ``wait``. ``finished`` ends it."""
        if not self.try_admit(ticket, target, priority, caller, deadline_seconds, keep_seconds=keep_seconds):
            await self.wait(ticket, priority, on_progress)

    def finished(self, ticket: str) -> None:
        """Say that a request has ended, however; also one that was not admitted, or was unknown here."""
        entry = self._tickets.pop(ticket, None)
        if entry is None or entry.error is not None:
            return
        self._line.tell(RequestFinished(ticket=ticket) if entry.is_admitted else RequestLeft(ticket=ticket))

    # For nobody in particular: tiers.base.Loader

    def wish(self, target: str, patience_seconds: float = WISH_SECONDS) -> None:
        """Have a model loaded if there is room for it soon.

        Args:
            target: Which.
            patience_seconds: How long room may be waited for.
        """
        now = self._clock.monotonic_seconds()
        if target not in self.models or target in self._wishes or self._failure_of(target, now) is not None:
            return
        self._count += 1
        ticket = f"wish_{self._count}"
        self._wishes[target] = ticket
        self._tickets[ticket] = _Ticket(target, now, is_wish=True)
        fact = RequestArrived(ticket=ticket, model=target, priority="background", deadline=now + patience_seconds)
        self._line.tell(fact)

    async def load(self, target: str, on_progress: Progress | None = None, keep_seconds: float | None = None) -> None:
        """Return when a model is loaded.

        Args:
            target: Which.
            on_progress: As in ``wait``.
            keep_seconds: As in ``try_admit``.

        Raises:
            TurnoutError: It cannot be loaded, or not in time.
        """
        self._count += 1
        ticket = f"load_{self._count}"
        try:
            await self.admit(ticket, target, on_progress=on_progress, keep_seconds=keep_seconds)
        finally:
            self.finished(ticket)

    # What the scheduler decides

    def admitted(self, effect: AdmitRequest) -> None:
        """Let a request go."""
        entry = self._tickets.get(effect.ticket)
        if entry is None:  # it has left in the meantime
            self._line.tell(RequestFinished(ticket=effect.ticket))
            return
        entry.is_admitted = True
        if entry.is_wish:
            self._wishes.pop(entry.target, None)
            self.finished(effect.ticket)
        elif entry.answer is not None and not entry.answer.done():
            entry.answer.set_result(None)

    def refused(self, effect: RefuseRequest) -> None:
        """Turn a request away."""
        entry = self._tickets.get(effect.ticket)
        if entry is None:
            return
        entry.error = why_refused(effect, entry.target)
        if entry.is_wish:
            del self._tickets[effect.ticket]
            self._wishes.pop(entry.target, None)
            return
        self._emit(
            RequestTurnedAway(
                ticket=effect.ticket,
                target=entry.target,
                reason=effect.reason,
                message=effect.message,
                waited_seconds=self._clock.monotonic_seconds() - entry.arrived_at,
            )
        )
        if entry.answer is not None and not entry.answer.done():
            entry.answer.set_exception(entry.error)

    # What workers do

    def failed(self, target: str, reason: str, retry_in: float) -> None:
        """Tell everybody who waits for a model that it could not be started, so that they go on to another one.

        Whoever comes before the next try makes sense is told the same. The first one after that brings it about.

        Args:
            target: The model.
            reason: Why.
            retry_in: Seconds until then.
        """
        now = self._clock.monotonic_seconds()
        self._failures[target] = (now + retry_in, reason)
        for ticket, entry in list(self._tickets.items()):
            if entry.target == target and not entry.is_admitted and entry.error is None:
                self.refused(
                    RefuseRequest(ticket=ticket, reason="failed", message=reason, retry_after_seconds=retry_in)
                )
                self._line.tell(RequestLeft(ticket=ticket))

    def is_well(self, target: str) -> None:
        """Forget why a model failed: it is ready."""
        self._failures.pop(target, None)

    def _failure_of(self, target: str, now: float) -> TurnoutError | None:
        until, reason = self._failures.get(target, (0.0, ""))
        if now >= until:
            return None
        effect = RefuseRequest(ticket="", reason="failed", message=reason, retry_after_seconds=until - now)
        return why_refused(effect, target)


def why_refused(effect: RefuseRequest, target: str) -> TurnoutError:
    """Return the error that a refusal is for the caller.

    Args:
        effect: The decision.
        target: The model.
    """
    message = f"{target}: {effect.message}"
    wait = effect.retry_after_seconds
    logs = f"`turnout logs {target.partition('/')[2]}` shows why"
    match effect.reason:
        case "queue_full":
            hint = "ask again a little later, or let fewer requests wait at once"
            return QueueFull(message, hint=hint, retry_after_seconds=wait)
        case "deadline":
            hint = "`turnout ps` shows who holds the memory; a longer deadline waits longer"
            return NotInTime(message, hint=hint, retry_after_seconds=wait)
        case "too_large":
            hint = "a smaller context or model, or a `device` with more memory"
            return DoesNotFit(message, hint=hint)
        case "stopping":
            return ShuttingDown("turnout is shutting down", hint="try again when it has been started again")
        case "removed":
            return LoadFailed(message, code="model_removed", hint="`turnout ps` shows what is served")
        case "failed":
            return LoadFailed(message, hint=logs, retry_after_seconds=wait)
