"""Who could make room in one round, how, and at what price: the candidates for ``evict.choose``."""

from __future__ import annotations

from turnout.core.memory import Demand
from turnout.scheduler.claims import Claim
from turnout.scheduler.evict import Candidate, Choice, Move, Option, choose
from turnout.scheduler.intent import KnownPlan
from turnout.scheduler.pool import Holder
from turnout.scheduler.reserve import Reserve
from turnout.scheduler.state import State
from turnout.scheduler.worker import CLOSED, STARTING, Worker

NORMAL = 1
"""The level of normal requests; more urgent ones are below."""
LEAST_USES = 0.01
"""Even who was never asked for may be: among the unwanted, the cheapest to get back goes first."""
KNOWN_SECONDS = 2.0
"""For so long a plan may be used again: prices change slowly."""
LEAST_WAIT_SECONDS = 1.0
"""Whoever has work is waited for that long at least."""
STICKY = 0.01
"""Factor on the price of a worker that already drains for the same claim: a drain goes on until it has ended."""


class Movable:
    """The workers that may be moved in one round.

    Args:
        state: Everything.
        reserve: What is free.
        now: Monotonic seconds.

    Attributes:
        most: What all of them hold, by account: no plan frees more.
        most_now: The same of those who are idle or have had their least time: for whoever is not overdue no plan frees
            more.
        served: Models whose claims came before: they are not moved for those who come after.
        drained_for: For whom each worker drained until now.
    """

    def __init__(self, state: State, reserve: Reserve, now: float) -> None:
        self._state = state
        self._reserve = reserve
        self._now = now
        self._workers = [
            worker for worker in state.workers.values() if worker.phase in {"ready", "asleep"} and not worker.is_pinned
        ]
        self._least_time: dict[str, bool] = {}  # who has not had it yet, and whether that one is idle
        for worker in self._workers:
            self._look_at_least_time(worker)
        self._most_idle = self._sum([worker for worker in self._workers if not worker.running])
        self.most = self._sum(self._workers)
        self.most_now = self._sum([worker for worker in self._workers if self._least_time.get(worker.name, True)])
        self._idle_candidates: dict[str, Candidate] = {}
        self.served: set[str] = set()
        self.drained_for: dict[str, Holder | None] = {}

    def plan(self, claim: Claim, need: Demand, *, by_use: bool = False) -> list[Choice] | None:
        """Return the cheapest moves of idle workers that free what a claim needs, or None.

        Args:
            claim: Whose.
            need: Bytes by account.
            by_use: Count what they use, not only what they were granted.
        """
        if not by_use and not covers(self._most_idle, need):
            return None
        if not by_use and (known := self._known_plan(claim, need)) is not None:
            return known
        idle = [worker for worker in self.others(claim) if not self._has_work(worker, claim)]
        free_to_go = [worker for worker in idle if not self.is_protected(worker, claim)]
        plan = self._choose(claim, need, free_to_go, by_use)
        if plan is not None and not by_use:
            names = frozenset([worker.name for worker in free_to_go])
            claim.owner.plan = KnownPlan(need, plan, names, claim.level, self._now + KNOWN_SECONDS)
        return plan

    def _known_plan(self, claim: Claim, need: Demand) -> list[Choice] | None:
        """Return the plan of the last round if it is still the cheapest one: those in it are there, and whoever has
        become idle since is dearer alone than all of it.
        """
        known = claim.owner.plan
        claim.owner.plan = None
        if known is None or known.need != need or known.level != claim.level or self._now >= known.until:
            return None
        for name, option in known.plan:
            worker = self._state.workers.get(name)
            if worker is None or not self._is_free_to_go(worker, claim) or not worker.can(option.move):
                return None
        price = sum([option.price for _, option in known.plan])
        for worker in self._workers:
            if worker.name not in known.among and self._is_free_to_go(worker, claim):
                options = self.candidate(worker, claim, by_use=False).options
                if min([option.price for option in options]) < price:
                    return None
        claim.owner.plan = known
        return known.plan

    def _is_free_to_go(self, worker: Worker, claim: Claim) -> bool:
        return (
            worker.phase in {"ready", "asleep"}
            and worker is not claim.owner
            and not (worker.waiting and worker.name in self.served)
            and not self._has_work(worker, claim)
            and not self.is_protected(worker, claim)
        )

    def plan_to_drain(
        self, claim: Claim, need: Demand, *, by_use: bool = False, may_wait: bool = False
    ) -> list[str] | None:
        """Return which workers should admit nobody any more and make way, or None if that would not do.

        Those that have finished already are among them, as long as others have not: somebody may wait for them.

        Args:
            claim: Whose.
            need: Bytes by account.
            by_use: Count what they use, not only what they were granted.
            may_wait: Wait for whoever still starts or keeps its place if that is cheaper, and close nobody in vain.
        """
        draining = [worker for worker in self.others(claim) if self.drained_for.get(worker.name) == claim.holder]
        if draining and self._free_enough(draining, need, by_use=by_use):
            return [worker.name for worker in draining]  # a drain goes on until it has ended
        free_to_go = [worker for worker in self.others(claim) if not self.is_protected(worker, claim)]
        plan = self._choose(claim, need, free_to_go, by_use)
        if plan is None:
            return None
        if may_wait:
            plan = self._choose(claim, need, self.others(claim) + self.starting(), by_use) or plan
        names = {name for name, _ in plan}
        return [worker.name for worker in free_to_go if worker.name in names and (worker.running or worker.waiting)]

    def wait_for(self, worker: Worker, claim: Claim) -> float:
        """Return how long it is likely to take until a worker could be moved for a claim; 0 if it could be now."""
        is_starting = worker.phase in STARTING
        seconds = 0.0
        if self._has_work(worker, claim) or (worker.waiting and is_starting):
            seconds = max(LEAST_WAIT_SECONDS, worker.busy_seconds(self._now, is_closing=claim.is_overdue))
        if is_starting:
            return seconds + worker.start_rest_seconds(self._now) + worker.model.min_residency_seconds
        if self.is_protected(worker, claim):  # by the time that its work is done it will be idle
            return max(seconds, worker.stays_until(is_idle=True) - self._now)
        return seconds

    def could_free(self, claim: Claim, need: Demand, *, by_use: bool) -> bool:
        """Whether it would do if everybody moved who can be moved at all, once all have had their least time."""
        return self._free_enough(self.others(claim), need, by_use=by_use)

    def others(self, claim: Claim) -> list[Worker]:
        """Return who is there and may be moved for a claim, sooner or later."""
        return [
            worker
            for worker in self._workers
            if worker.phase in {"ready", "asleep"}
            and worker is not claim.owner
            and not (worker.waiting and worker.name in self.served)
        ]

    def starting(self) -> list[Worker]:
        """Return who is on its way, and may be moved once it is there and has had its least time."""
        return [worker for worker in self._state.workers.values() if worker.phase in STARTING and not worker.is_pinned]

    def _choose(self, claim: Claim, need: Demand, workers: list[Worker], by_use: bool) -> list[Choice] | None:
        if not self._free_enough(workers, need, by_use=by_use):
            return None
        found = [self.candidate(worker, claim, by_use=by_use) for worker in workers]
        return choose(need, self._reserve.spare(), found)

    def _free_enough(self, workers: list[Worker], need: Demand, *, by_use: bool) -> bool:
        """Whether it would do if all of these were stopped."""
        if by_use:
            return all(
                sum(self._state.pool.use(worker.holder, account, self._now) for worker in workers) >= lack
                for account, lack in need.items()
            )
        return covers(self._sum(workers), need)

    def _has_work(self, worker: Worker, claim: Claim) -> bool:
        return bool(worker.running) or (worker.phase == "ready" and has_admissible(worker, claim))

    def _sum(self, workers: list[Worker]) -> Demand:
        total: Demand = {}
        for worker in workers:
            for account, amount in self._state.pool.held(worker.holder).items():
                total[account] = total.get(account, 0) + amount
        return total

    def _look_at_least_time(self, worker: Worker) -> None:
        if worker.phase == "ready":
            is_idle = not worker.running and not worker.waiting
            until = worker.stays_until(is_idle=is_idle)
            if until > self._now:
                self._least_time[worker.name] = is_idle
                self._state.look(until, self._now)

    def is_protected(self, worker: Worker, claim: Claim) -> bool:
        """Whether a worker keeps its place against a claim; an idle one only does against background work."""
        is_idle = self._least_time.get(worker.name)
        return is_idle is not None and not (is_idle and claim.level <= NORMAL)

    def candidate(self, worker: Worker, claim: Claim, *, by_use: bool) -> Candidate:
        """Return the ways of moving a worker.

        A price is what is likely to be waited later: by those who want the worker back, and by those who wait for the
        room until it has finished what it does.
        """
        now, waits = self._now, self.wait_for(worker, claim)
        if waits <= 0 and not by_use and worker.name in self._idle_candidates:
            return self._idle_candidates[worker.name]
        requests = worker.interest.requests_within(self._state.settings.reuse_seconds, now)
        uses = worker.waiting + max(LEAST_USES, requests)
        factor, extra = 1.0, 0.0
        if waits > 0:
            extra = claim.cost_of_waiting(waits, now)
            factor = STICKY if self.drained_for.get(worker.name) == claim.holder else 1.0
        options: list[Option] = []

        def offer(move: Move, index: int, after: Demand, seconds: float) -> None:
            gain = gain_of(self._state, worker, after, now, by_use=by_use)
            options.append(Option(move, index, gain, factor * (max(0.0, seconds) * uses + extra)))

        if worker.phase == "asleep":
            woken = worker.wake_seconds(worker.level)
            for index in [] if worker.cannot_sleep else range(worker.level + 1, len(worker.model.sleep_levels)):
                offer("sleep", index, worker.model.sleep_levels[index].devices, worker.wake_seconds(index) - woken)
            offer("stop", 0, {}, worker.load_seconds() - woken)
        else:
            if worker.can_resize:
                for index in reversed(range(worker.size)):  # at the same price, no smaller than needed
                    offer("resize", index, worker.model.sizes[index].devices, worker.resize_seconds())
            for index, level in enumerate(() if worker.cannot_sleep else worker.model.sleep_levels):
                offer("sleep", index, level.devices, worker.wake_seconds(index))
            offer("stop", 0, {}, worker.load_seconds())
        made = Candidate(worker.name, tuple(options))
        if waits <= 0 and not by_use:
            self._idle_candidates[worker.name] = made  # the same for every claim
        return made


def covers(have: Demand, need: Demand) -> bool:
    """Whether there is as much as is needed on every account."""
    return all(have.get(account, 0) >= amount for account, amount in need.items())


def has_admissible(worker: Worker, claim: Claim) -> bool:
    """Whether somebody waits for a ready worker whom it would still admit while it drains for a claim."""
    if not worker.waiting or worker.gate == CLOSED:
        return False
    level = worker.best_level()
    return level is not None and level <= claim.gate


def gain_of(state: State, worker: Worker, after: Demand, now: float, *, by_use: bool) -> Demand:
    """Return what becomes free, by account, when a worker holds something else; below 0 where it takes more."""
    held = state.pool.held(worker.holder)
    left = state.pool.charge(after, is_beside=state.is_beside(worker))
    gain: Demand = {}
    for account in held | left:
        uses = state.pool.use(worker.holder, account, now) if by_use else held.get(account, 0)
        gain[account] = uses - left.get(account, 0)
    return gain


def after_order(worker: Worker) -> Demand:
    """Return what a worker will hold once the order under way has ended well."""
    if worker.phase in {"loading", "waking"}:
        return worker.devices
    if worker.phase == "resizing":
        return worker.model.sizes[worker.goal].devices
    if worker.phase == "falling_asleep":
        return worker.model.sleep_levels[worker.goal].devices
    return {}
