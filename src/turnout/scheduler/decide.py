"""Who may use the devices now, and what has to move first. Pure: facts in, effects out; design.md says what holds.

Start here: each fact has one method. Most change little and end at once. Whatever may change who gets room marks the
state as unsettled, and room.py then goes through those who wait for room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from turnout.core.memory import PRIORITIES, Device, Model
from turnout.scheduler import lifecycle
from turnout.scheduler import messages as m
from turnout.scheduler.claims import LOOK_AHEAD
from turnout.scheduler.objections import objection, refuse_impossible, words_of
from turnout.scheduler.outlook import expected_wait, lease_wait, position_of, view
from turnout.scheduler.queue import Waiter
from turnout.scheduler.room import Round
from turnout.scheduler.settings import SchedulerSettings
from turnout.scheduler.state import NEVER, State
from turnout.scheduler.worker import MOVING, OPEN, Run, Worker

__all__ = ["Decider", "SchedulerSettings"]

DEFAULTS = SchedulerSettings()


class Decider:
    """The scheduler.

    Args:
        devices: What there is to share.
        models: What may be on them; more can come by ``ModelAdded``.
        settings: How.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        models: Sequence[Model] = (),
        settings: SchedulerSettings = DEFAULTS,
    ) -> None:
        self._state = State(devices, models, settings)
        self._takers: dict[type[m.Fact], Callable[[Any, float], None]] = {
            m.RequestArrived: self._request_arrived,
            m.RequestFinished: self._request_ended,
            m.RequestLeft: self._request_ended,
            m.WorkerReady: partial(lifecycle.worker_ready, self._state),
            m.WorkerAsleep: partial(lifecycle.worker_asleep, self._state),
            m.WorkerGone: partial(lifecycle.worker_gone, self._state),
            m.OrderFailed: partial(lifecycle.order_failed, self._state),
            m.ModelAdded: partial(lifecycle.model_added, self._state),
            m.ModelRemoved: partial(lifecycle.model_removed, self._state),
            m.UnloadAsked: partial(lifecycle.unload_asked, self._state),
            m.LeaseAsked: self._lease_asked,
            m.LeaseAdopted: self._lease_adopted,
            m.LeaseRenewed: self._lease_renewed,
            m.LeaseReleased: self._lease_released,
            m.Measured: self._measured,
            m.Stopping: self._stopping,
            m.Ticked: self._ticked,
        }
        self._state.set_limits()

    def decide(self, fact: m.Fact, now: float) -> list[m.Effect]:
        """Take a fact in and return what has to be done, in this order.

        Args:
            fact: What happened.
            now: Monotonic seconds, never going back.
        """
        state = self._state
        effects: list[m.Effect] = []
        state.effects = effects
        if state.is_due(now):
            self._pass_time(now)
        self._takers[type(fact)](fact, now)
        while state.is_unsettled:
            self._settle(now)
            if state.has_new_limits:
                state.has_new_limits = False
                refuse_impossible(state)
        return effects

    def next_at(self) -> float | None:
        """Return when a ``Ticked`` is due at the latest, or None."""
        at = self._state.next_at()
        return None if at == NEVER else at

    def position(self, ticket: str, now: float) -> m.WaitingView | None:
        """Return where a waiting request or lease stands, or None if it does not wait."""
        waiter = self._state.waiting.get(ticket)
        return None if waiter is None else position_of(self._state, waiter, now)

    def view(self, now: float) -> m.View:
        """Return everything as it is."""
        return view(self._state, now)

    def _settle(self, now: float) -> None:
        Round(self._state, now).run()

    # Requests

    def _request_arrived(self, fact: m.RequestArrived, now: float) -> None:
        state = self._state
        ticket = fact.ticket
        if ticket in state.running or ticket in state.waiting:
            return
        worker = state.workers.get(fact.model)
        if (
            worker is not None
            and worker.phase == "ready"
            and worker.gate == OPEN
            and not worker.waiting
            and len(worker.running) < worker.slots
            and fact.least_quality <= worker.quality
            and (fact.deadline is None or fact.deadline > now)
            and not state.is_stopping
        ):
            worker.interest.arrived(fact.caller, now)
            worker.running[ticket] = Run(now, fact.expected_seconds)
            if fact.keep_seconds is not None:
                worker.keep(fact.keep_seconds)
            state.running[ticket] = worker
            state.effects.append(m.AdmitRequest(ticket=ticket, model=fact.model))
            return
        if (refusal := objection(state, fact, worker, now)) is not None:
            state.effects.append(refusal)
            return
        assert worker is not None
        need = worker.least_size(fact.least_quality)
        assert need is not None
        self._line_up(worker, need, fact, now)

    def _line_up(self, worker: Worker, need: int, fact: m.RequestArrived, now: float) -> None:
        state = self._state
        line = worker.lines[need]
        worker.interest.arrived(fact.caller, now)
        level = line.level()
        waiter = Waiter(
            fact.ticket,
            fact,
            caller=fact.caller,
            priority=PRIORITIES.index(fact.priority),
            since=now,
            until=fact.deadline,
            line=line,
        )
        state.line_up(waiter, now)
        state.admit(worker, now)
        if worker.lingers_until_waiting and worker.waiting >= worker.lingers_until_waiting:
            state.is_unsettled = True
        elif waiter.id in state.waiting and (level is None or waiter.level < level):
            wants_room = worker.phase != "ready" or need > worker.size
            state.is_unsettled = state.is_unsettled or (wants_room and worker.phase not in MOVING)

    def _request_ended(self, fact: m.RequestFinished | m.RequestLeft, now: float) -> None:
        state = self._state
        worker = state.running.pop(fact.ticket, None)
        if worker is None:
            self._stopped_waiting(fact.ticket)
            return
        worker.service.learn(now - worker.running.pop(fact.ticket).since)
        if worker.waiting:
            state.admit(worker, now)
        if not worker.running:
            worker.idle_since = now
            if state.is_blocked or worker.gate != OPEN:
                state.is_unsettled = True
            lifecycle.fell_idle(state, worker, now)

    def _stopped_waiting(self, id_: str) -> None:
        state = self._state
        waiter = state.waiting.get(id_)
        if waiter is not None:
            state.step_out(waiter)
            self._noticed_absence(waiter)

    def _noticed_absence(self, waiter: Waiter) -> None:
        """Somebody waits no longer: perhaps nobody need make room any more, or somebody behind it fits."""
        state = self._state
        if state.is_blocked and (isinstance(waiter.fact, m.LeaseAsked) or waiter.line.level() != waiter.level):
            state.is_unsettled = True

    # Leases

    def _lease_asked(self, fact: m.LeaseAsked, now: float) -> None:
        state = self._state
        id_ = fact.lease.id
        if id_ in state.waiting or id_ in state.leases:
            return
        if state.is_stopping:
            state.effects.append(m.RefuseLease(id=id_, position=1, message="the daemon is closing"))
            return
        is_voice = fact.lease.lease_class == "voice"
        if not state.can_ever_hold(fact.lease.devices, None, is_voice=is_voice):
            message = words_of(state, fact.lease.devices, None)
            state.effects.append(m.RefuseLease(id=id_, position=1, message=message, too_large=True))
            return
        is_patient = fact.wait_until > now
        waiter = Waiter(
            id_,
            fact,
            caller=fact.caller,
            priority=PRIORITIES.index(fact.lease.priority),
            since=now,
            until=fact.wait_until if is_patient else None,
            line=state.line_for(fact.lease.devices),
        )
        state.line_up(waiter, now)
        if is_patient and waiter not in waiter.line.heads(LOOK_AHEAD):
            return
        self._settle(now)
        if not is_patient and id_ in state.waiting:
            self._give_up(waiter, now)

    def _lease_adopted(self, fact: m.LeaseAdopted, now: float) -> None:
        state = self._state
        if fact.lease.id in state.leases or fact.lease.id in state.waiting:
            return
        if fact.expires_in <= 0:
            state.effects.append(m.EndLease(id=fact.lease.id, reason="it expired while the daemon was away"))
            return
        devices = {device: max(0, amount) for device, amount in fact.lease.devices.items()}
        state.hold_lease(msgspec.structs.replace(fact.lease, devices=devices), now, now + fact.expires_in)
        state.is_unsettled = True

    def _lease_renewed(self, fact: m.LeaseRenewed, now: float) -> None:
        held = self._state.leases.get(fact.id)
        if held is not None:
            held.expires_at = now + fact.ttl_seconds
            self._state.remind(held.expires_at, "expiry", fact.id)

    def _lease_released(self, fact: m.LeaseReleased, now: float) -> None:
        if fact.id in self._state.leases:
            self._state.end_lease(fact.id, now)
        else:
            self._stopped_waiting(fact.id)

    def _give_up(self, waiter: Waiter, now: float) -> None:
        """Refuse somebody whose time is over."""
        state = self._state
        waited = now - waiter.since
        if isinstance(waiter.fact, m.RequestArrived):
            worker = state.workers[waiter.fact.model]
            message = f"it waited {waited:.1f} s for {worker.name}, which is {worker.phase.replace('_', ' ')}"
            state.refuse(waiter, "deadline", message, expected_wait(state, worker, worker.waiting - 1, now))
            return
        expected = lease_wait(state, waiter, waiter.line.ahead_of(waiter), now)
        state.refuse_lease(waiter, f"no room within {waited:.1f} s", expected)

    # The rest

    def _measured(self, fact: m.Measured, now: float) -> None:
        self._state.pool.measured(fact, now)
        if self._state.is_short:
            self._state.is_unsettled = True

    def _stopping(self, fact: m.Stopping, now: float) -> None:  # noqa: ARG002  every taker gets the same
        state = self._state
        state.is_stopping = True
        for waiter in list(state.waiting.values()):
            if isinstance(waiter.fact, m.RequestArrived):
                state.refuse(waiter, "stopping", "the daemon is closing; ask again when it is back")
            else:
                state.refuse_lease(waiter, "the daemon is closing")
        state.is_unsettled = True

    def _ticked(self, fact: m.Ticked, now: float) -> None:
        """Nothing more: whatever is due was done before the fact was looked at."""

    def _pass_time(self, now: float) -> None:
        state = self._state
        if state.look_at <= now:
            state.look_at = NEVER
            state.is_unsettled = True
        while (timer := state.due(now)) is not None:
            at, kind, key, number = timer
            if kind == "deadline":
                waiter = state.waiting.get(key)
                if waiter is not None and waiter.until == at:
                    self._give_up(waiter, now)
                    self._noticed_absence(waiter)
            elif kind == "expiry":
                held = state.leases.get(key)
                if held is not None and held.expires_at <= now:
                    state.end_lease(key, now)
                    state.effects.append(m.EndLease(id=key, reason="it expired without a renewal"))
            elif (worker := state.workers.get(key)) is not None:
                if kind == "idle":
                    if worker.idle_look_at == at:
                        lifecycle.put_away(state, worker, now)
                elif worker.order_number == number and worker.phase in MOVING:
                    state.repeat_order(worker, now)
