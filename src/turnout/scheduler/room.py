"""Who gets room next, and who has to make it: one round over those who want room, most urgent first."""

from __future__ import annotations

from turnout.core.memory import Demand
from turnout.scheduler.claims import Claim, Way, claims_of
from turnout.scheduler.evict import Choice
from turnout.scheduler.intent import Patience
from turnout.scheduler.messages import LeaseAsked
from turnout.scheduler.moves import Movable, after_order, gain_of, has_admissible
from turnout.scheduler.objections import in_gib
from turnout.scheduler.patience import LEAST_LINGER_SECONDS, LOOK_AGAIN_SECONDS, linger_seconds, plan_to_wait
from turnout.scheduler.pool import Holder
from turnout.scheduler.queue import Waiter
from turnout.scheduler.reserve import Reserve
from turnout.scheduler.state import NEVER, State
from turnout.scheduler.worker import CLOSED, MOVING, OPEN, STARTING, Worker

MOST_PLANS = 3
"""For so many claims on the same devices others are moved in one round; the rest have their turn when these have."""


class Round:
    """One round.

    Args:
        state: Everything.
        now: Monotonic seconds.
    """

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.now = now
        self.reserve = Reserve(state.pool, now)
        self.starting: dict[str, int] = {}
        self.planned_for: dict[tuple[str, ...], int] = {}

    def run(self) -> None:
        """Serve all claims, and admit through the gates that are open then."""
        state = self.state
        state.is_unsettled = False
        state.is_blocked = state.is_short = False
        state.look_at = NEVER
        if state.is_stopping:
            return
        drained_for: dict[str, Holder | None] = {}
        for worker in state.workers.values():
            worker.lingers_until_waiting = 0
            if worker.gated_for is not None:
                drained_for[worker.name] = worker.gated_for
                worker.gated_for = None
            if worker.is_removed or worker.next_model is not None:
                self._end(worker)
            else:
                worker.gate = OPEN
            if worker.phase in MOVING:
                self._count_order(worker)
        claims = claims_of(state, self.now)
        if claims:
            self.movable = Movable(state, self.reserve, self.now)
            self.movable.drained_for = drained_for
            self._serve_all(claims)
        for worker in state.workers.values():
            if worker.waiting and worker.phase == "ready":
                state.admit(worker, self.now)

    def _end(self, worker: Worker) -> None:
        """Let a worker end whose model was taken away or has other words now."""
        worker.gate = CLOSED
        if not worker.running and worker.phase in {"ready", "asleep"}:
            self.state.stop(worker, "its model was removed or changed", self.now)

    def _serve_all(self, claims: list[Claim]) -> None:
        left = [claim for claim in claims if not (claim.is_voice and self._serve_in_slot(claim))]
        last_fixed = max((index for index, claim in enumerate(left) if claim.is_fixed), default=-1)
        kept: set[tuple[str, ...]] = set()
        reach, reach_now = self._reach()
        for index, claim in enumerate(left):
            if claim.kind != "lease" and self._worker(claim).phase in MOVING:
                continue  # it had to make way for a more urgent claim
            most = reach if claim.is_overdue else reach_now
            if any(has_prospect(way, most) for way in claim.ways):
                before = self.reserve.changes, len(self.state.effects)
                self._serve(claim)
                if before != (self.reserve.changes, len(self.state.effects)):
                    reach, reach_now = self._reach()
            else:
                self.state.is_blocked = True
                claim.owner.short_since = None
                charge = claim.ways[-1].charge
                if index < last_fixed and not claim.is_impatient and (key := tuple(charge)) not in kept:
                    kept.add(key)  # it wants more than there is: after it nothing is left for those that come later
                    self.reserve.keep(charge, from_all=False)
            self.movable.served.add(claim.holder[1])

    def _reach(self) -> tuple[Demand, Demand]:
        """Return what a claim might get if everybody moved: in the end, and now.

        Most claims want more once the first ones have had theirs, and so cost little.
        """
        movable = self.movable
        free = {account: self.reserve.in_reach(account) for account in self.state.pool.accounts}
        return (
            {account: amount + movable.most.get(account, 0) for account, amount in free.items()},
            {account: amount + movable.most_now.get(account, 0) for account, amount in free.items()},
        )

    # Serving one

    def _serve_in_slot(self, claim: Claim) -> bool:
        """Serve voice first where that takes nothing from anybody: in what is free of the room that is set aside."""
        if claim.kind not in {"start", "wake", "lease"}:
            return False
        pool = self.state.pool
        way = claim.ways[0]
        for device, amount in way.charge.items():
            if device not in pool.beside:
                return False
            taken = pool.granted(device) - pool.granted(pool.beside[device])
            if taken + amount > pool.set_aside[device]:
                return False
        if not self.reserve.fits(way.charge, is_fixed=False):
            return False
        self._begin_or_wait(claim, way)
        return True

    def _serve(self, claim: Claim) -> None:
        for way in claim.ways:
            if self.reserve.fits_by_book(way.charge, is_fixed=claim.is_fixed):
                if self.reserve.fits(way.charge, is_fixed=claim.is_fixed):
                    self._begin_or_wait(claim, way)
                else:
                    self._wait_for_memory(claim, way)
                return
        claim.owner.short_since = None
        self.state.is_blocked = True
        if claim.is_impatient:
            return
        accounts = tuple(claim.ways[-1].charge)
        self.planned_for[accounts] = self.planned_for.get(accounts, 0) + 1
        if self.planned_for[accounts] > MOST_PLANS:
            self.reserve.keep(claim.ways[-1].charge, from_all=False)
        elif not self._make_room(claim):
            self._hold_place(claim, by_use=False)

    def _make_room(self, claim: Claim) -> bool:
        """Move idle workers, or else let busy ones finish; False if even that would not do now."""
        needs = [self.reserve.lacking(way.charge, is_fixed=claim.is_fixed) for way in claim.ways]
        for way, need in zip(claim.ways, needs, strict=True):
            plan = self.movable.plan(claim, need) if need else []
            if plan is not None:
                if plan and (self._is_still_patient(claim, plan) or self._waits_instead(claim, need, plan)):
                    return True
                self._order(plan, claim)
                self.reserve.keep(way.charge, from_all=True)
                return True
        forced_at = self._forced_at(claim)
        for way, need in zip(claim.ways, needs, strict=True):
            drains = self.movable.plan_to_drain(claim, need, may_wait=self.now < forced_at)
            if drains is not None:
                self.state.look(forced_at, self.now)
                self._close(drains, claim)
                self.reserve.keep(way.charge, from_all=True)
                return True
        return False

    def _waits_instead(self, claim: Claim, need: Demand, plan: list[Choice]) -> bool:
        """Whether a claim that could have idle workers moved lets them be for now; see patience.py."""
        state, now = self.state, self.now
        forced_at = self._forced_at(claim)
        if now >= forced_at or (linger := linger_seconds(state, claim, plan, now)) is None:
            return False
        drains: list[str] = []
        if linger < LEAST_LINGER_SECONDS:
            linger = LOOK_AGAIN_SECONDS
            waits_for = plan_to_wait(state, self.movable, self.reserve, claim, need, plan, now)
            if waits_for is None:
                return False
            drains = waits_for
        until = min(now + linger, forced_at)
        claim.owner.patience = Patience(plan, drains, until, claim.count(), claim.level)
        if isinstance(claim.owner, Worker):
            claim.owner.lingers_until_waiting = 2 * claim.count()
        self._be_patient(claim, claim.owner.patience)
        return True

    def _forced_at(self, claim: Claim) -> float:
        """Return when a claim has no patience left; never, as long as it is not overdue."""
        settings = self.state.settings
        return claim.since + settings.patience_steps * settings.aging_seconds if claim.is_overdue else NEVER

    def _is_still_patient(self, claim: Claim, plan: list[Choice]) -> bool:
        """Go on waiting as decided before, as long as nothing has changed that might change the decision."""
        patience = claim.owner.patience
        claim.owner.patience = None
        if (
            patience is None
            or self.now >= patience.until
            or claim.level != patience.level
            or claim.count() >= 2 * patience.count
            or plan is not patience.plan
        ):
            return False
        claim.owner.patience = patience
        if isinstance(claim.owner, Worker):
            claim.owner.lingers_until_waiting = 2 * patience.count
        self._be_patient(claim, patience)
        return True

    def _be_patient(self, claim: Claim, patience: Patience) -> None:
        self._close(patience.drains, claim)
        self.state.look(patience.until, self.now)
        self.reserve.keep(claim.ways[-1].charge, from_all=False)

    def _hold_place(self, claim: Claim, *, by_use: bool) -> bool:
        """Keep room for a claim that nobody can make room for now; return whether somebody of ours could later.

        An overdue claim that only waits until others have had their least time keeps what it can get: nobody may come
        in between. What is in the hands of foreign programs may last for hours, and so long others that can be moved
        again may use what is free.
        """
        way = claim.ways[-1]
        if not claim.is_overdue and not by_use:
            self.reserve.keep(way.charge, from_all=False)
            return True
        need = self.reserve.lacking(way.charge, is_fixed=claim.is_fixed, by_use=by_use)
        can_later = not need or self.movable.could_free(claim, need, by_use=by_use)
        self.reserve.keep(way.charge, from_all=claim.is_overdue and can_later)
        return can_later

    def _begin_or_wait(self, claim: Claim, way: Way) -> None:
        """Begin, unless a start on the same device has to end first."""
        most = self.state.settings.starts_at_once_per_device
        takes = [device for device in way.charge if device in self.state.serial]
        is_start = claim.kind in {"start", "wake"} or (claim.kind == "grow" and self._worker(claim).can_resize)
        if is_start and any(self.starting.get(device, 0) >= most for device in takes):
            self.state.is_blocked = True
            self.reserve.keep(way.charge, from_all=True)
            return
        claim.owner.short_since = None
        self._begin(claim, way)

    def _begin(self, claim: Claim, way: Way) -> None:
        state, now = self.state, self.now
        if claim.kind == "lease":
            assert isinstance(claim.owner, Waiter)
            state.grant(claim.owner, now)
            return
        worker = self._worker(claim)
        if claim.kind == "start":
            state.start(worker, way.size, now)
        elif claim.kind == "wake":
            state.wake(worker, now)
        else:
            self._grow(claim, worker, way)
            return
        self._count_order(worker)

    def _grow(self, claim: Claim, worker: Worker, way: Way) -> None:
        """Switch to a larger size: at run time, or by a stop now and a start later, as soon as nothing runs."""
        state, now = self.state, self.now
        is_ready = claim.kind == "grow"
        if is_ready and (worker.running or has_admissible(worker, claim)):
            until = worker.stays_until(is_idle=False)
            if now >= until:
                self._close([worker.name], claim)
            state.look(until, now)
            state.is_blocked = True
            self.reserve.keep(way.charge, from_all=True)
            return
        if is_ready and worker.can_resize:
            state.resize(worker, way.size, "a larger size is wanted", now)
        else:
            is_larger = way.size > worker.size
            state.stop(worker, "a larger size is wanted" if is_larger else "it cannot be woken", now)
            self.reserve.keep(way.charge, from_all=True)
        self._count_order(worker)

    # When only measured memory is in the way

    def _wait_for_memory(self, claim: Claim, way: Way) -> None:
        state, now = self.state, self.now
        state.is_blocked = state.is_short = True
        if claim.is_impatient:
            return
        if claim.owner.short_since is None:
            claim.owner.short_since = now
        for device in way.charge:
            state.look(state.pool.reading_ends_at(device), now)
        due = claim.owner.short_since + state.settings.shortage_seconds
        if now < due:
            self.reserve.keep(way.charge, from_all=True)
            state.look(due, now)
        elif not self._escalate(claim, way):
            self._refuse(claim, way)

    def _escalate(self, claim: Claim, way: Way) -> bool:
        """Put idle workers away, take a smaller size, or wait for busy ones; False if nothing of ours is in the way."""
        need = self.reserve.lacking(way.charge, is_fixed=claim.is_fixed, by_use=True)
        if not need:
            self._wait_once_more(claim, way)
            return True
        plan = self.movable.plan(claim, need, by_use=True)
        if plan is not None:
            self._order(plan, claim)
            claim.owner.short_since = None
            self.reserve.keep(way.charge, from_all=True)
            return True
        for smaller in claim.ways[claim.ways.index(way) + 1 :]:
            if self.reserve.fits(smaller.charge, is_fixed=claim.is_fixed):
                self._begin_or_wait(claim, smaller)
                return True
        smallest = claim.ways[-1]
        need = self.reserve.lacking(smallest.charge, is_fixed=claim.is_fixed, by_use=True)
        if not need:
            self._wait_once_more(claim, smallest)
            return True
        drains = self.movable.plan_to_drain(claim, need, by_use=True)
        if drains is not None:
            self._close(drains, claim)
            self.reserve.keep(smallest.charge, from_all=True)
            return True
        return self._hold_place(claim, by_use=True)

    def _wait_once_more(self, claim: Claim, way: Way) -> None:
        """Memory is on its way back."""
        claim.owner.short_since = self.now
        self.state.look(self.now + self.state.settings.shortage_seconds, self.now)
        self.reserve.keep(way.charge, from_all=True)

    def _refuse(self, claim: Claim, way: Way) -> None:
        state, pool = self.state, self.state.pool
        parts = []
        for device, amount in way.charge.items():
            free = max(0, pool.free(device, self.now))
            if device in pool.devices and free < amount:
                parts.append(
                    f"{device} has {in_gib(free)} free, {in_gib(amount)} are needed, and "
                    f"{in_gib(pool.unattributed(device, self.now))} are used by programs without a lease"
                )
        words = "; ".join(parts) or "others are before it"
        message = f"{words}. Close such a program, or let it take a lease (`turnout lease run`)"
        if isinstance(claim.owner, Worker):
            state.refuse_all(claim.owner, "failed", message, state.settings.shortage_seconds)
        else:
            state.refuse_lease(claim.owner, message)
        state.is_unsettled = True

    # Moving others

    def _order(self, plan: list[Choice], claim: Claim) -> None:
        reason = f"room for {self._title(claim)}" if plan else ""
        for name, option in plan:
            worker = self.state.workers[name]
            if option.move == "stop":
                self.state.stop(worker, reason, self.now)
            elif option.move == "resize":
                self.state.resize(worker, option.index, reason, self.now)
            else:
                level = worker.model.sleep_levels[option.index]
                more = gain_of(self.state, worker, level.devices, self.now, by_use=False)
                if not self.reserve.fits({a: -gain for a, gain in more.items() if gain < 0}, is_fixed=False):
                    continue  # as soon as another one has left the memory that its weights go to
                self.state.sleep(worker, option.index, reason, self.now)
            self._count_order(worker)

    def _close(self, names: list[str], claim: Claim) -> None:
        """Let workers finish what they do, and admit only who is as urgent as the claim that they make way for."""
        for name in names:
            worker = self.state.workers[name]
            worker.gate = min(worker.gate, claim.gate)
            worker.gated_for = claim.holder

    def _count_order(self, worker: Worker) -> None:
        if worker.phase in STARTING:
            for device in after_order(worker):
                if device in self.state.serial:
                    self.starting[device] = self.starting.get(device, 0) + 1
        coming = self.reserve.coming
        for account, gain in gain_of(self.state, worker, after_order(worker), self.now, by_use=False).items():
            coming[account] = coming.get(account, 0) + max(0, gain)

    def _worker(self, claim: Claim) -> Worker:
        assert isinstance(claim.owner, Worker)
        return claim.owner

    def _title(self, claim: Claim) -> str:
        if isinstance(claim.owner, Worker):
            return claim.owner.name
        assert isinstance(claim.owner.fact, LeaseAsked)
        return claim.owner.fact.lease.holder or claim.owner.id


def has_prospect(way: Way, reach: Demand) -> bool:
    """Whether all of a charge is in reach."""
    for account, amount in way.charge.items():  # noqa: SIM110  a generator would cost three times as much
        if reach.get(account, 0) < amount:
            return False
    return True
