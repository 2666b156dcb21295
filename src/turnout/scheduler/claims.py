"""Who wants room: models with waiters that they cannot serve as they are, and leases that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from turnout.core.memory import Demand
from turnout.scheduler.learn import MOST_CALLERS
from turnout.scheduler.messages import LeaseAsked
from turnout.scheduler.pool import Holder
from turnout.scheduler.queue import OVERDUE, Line, Waiter
from turnout.scheduler.worker import CLOSED, MOVING, Worker

if TYPE_CHECKING:
    from turnout.scheduler.state import State

LOOK_AHEAD = 4
"""So many callers' leases are looked at in one line; the others wait behind them."""

Kind = Literal["start", "wake", "grow", "restart", "lease"]


class Way:
    """One way of satisfying a claim.

    Attributes:
        size: Index of a worker's size; 0 for a lease.
        charge: Further bytes by account.
    """

    __slots__ = ("charge", "size")

    def __init__(self, size: int, charge: Demand) -> None:
        self.size = size
        self.charge = charge


class Claim:
    """Somebody who waits for room: a model with waiters, or a lease.

    Attributes:
        holder: Who would hold it.
        kind: What would be done.
        level: The best level that it waits on.
        since: Since when it waits for its turn on that level.
        served_at: When it had its last turn.
        ways: Best first.
        owner: Who remembers since when only measured memory is in the way.
        is_fixed: Once granted nobody can take it away.
    """

    __slots__ = (
        "holder",
        "is_fixed",
        "is_impatient",
        "is_voice",
        "kind",
        "level",
        "owner",
        "served_at",
        "since",
        "ways",
    )

    def __init__(self, holder: Holder, kind: Kind, owner: Worker | Waiter, level: int, since: float) -> None:
        self.holder = holder
        self.kind = kind
        self.owner = owner
        self.level = level
        self.since = since
        self.served_at = float("-inf")
        self.ways: list[Way] = []
        self.is_voice = False
        self.is_fixed = False
        self.is_impatient = False

    @property
    def is_job(self) -> bool:
        """Whether it is for a job: a program or a model that works for long at one thing."""
        if isinstance(self.owner, Worker):
            return self.owner.model.lease_class == "job"
        return not self.is_voice

    @property
    def is_overdue(self) -> bool:
        """Whether it has waited to its bound: it may make busy workers give way."""
        return self.level == OVERDUE

    def waiting_since(self) -> float:
        """Return since when the first of those with it waits, or since its last turn."""
        if isinstance(self.owner, Worker):
            heads = [head.since for line in self.owner.lines if (head := line.head()) is not None]
            return max(min(heads), self.owner.left_at)
        return self.owner.since

    def count(self) -> int:
        """Return how many wait with it."""
        return self.owner.waiting if isinstance(self.owner, Worker) else 1

    def cost_of_waiting(self, seconds: float, now: float) -> float:
        """Return how long all those with it would wait together, those who are still to come among them."""
        coming = self.owner.interest.requests_within(seconds, now) if isinstance(self.owner, Worker) else 0.0
        return seconds * (self.count() + coming / 2)

    def callers(self) -> set[str]:
        """Return who waits with it; of a great many, some."""
        if isinstance(self.owner, Worker):
            return {caller for line in self.owner.lines for caller in line.callers(MOST_CALLERS)}
        return {self.owner.lane[0]}

    @property
    def gate(self) -> int:
        """Whom a worker that drains for this claim still admits: those who are as urgent, until it is overdue."""
        return CLOSED if self.is_overdue else self.level


def claims_of(state: State, now: float) -> list[Claim]:
    """Return everybody's claims, most urgent first, and have the moment noted when time alone changes their order.

    Args:
        state: Everything.
        now: Monotonic seconds.
    """
    claims: list[Claim] = []
    for worker in state.workers.values():
        if not worker.waiting or worker.phase in MOVING:
            continue
        claim = worker.start_claim
        if claim is not None and worker.phase == "cold" and worker.retry_at <= now:
            line = worker.lines[0]  # the usual case, and most of the work where many models are waited for
            line.age(now)
            level, since, better_at = line.standing()
            if now < better_at < state.look_at:
                state.look_at = better_at
            claim.level, claim.served_at = level, worker.left_at
            claim.since = max(since, worker.left_at)
            claims.append(claim)
        elif (claim := _claim_of(state, worker, now)) is not None:
            claims.append(claim)
    for line in state.lease_lines.values():
        if line:
            line.age(now)
            state.look(line.standing()[2], now)
            claims += [_claim_of_lease(state, line, waiter, now) for waiter in line.heads(LOOK_AHEAD)]
    claims.sort(key=_urgency)
    return claims


def _urgency(claim: Claim) -> tuple[int, float, float]:
    return claim.level, claim.since, claim.served_at


def _claim_of(state: State, worker: Worker, now: float) -> Claim | None:
    if worker.is_removed or worker.next_model is not None:
        return None
    is_cold = worker.phase in {"cold", "failed"}
    if is_cold and worker.retry_at > now:
        state.look(worker.retry_at, now)
        return None
    best = worker.best_line(now, above=worker.size if worker.phase == "ready" else -1)
    if best is None:
        return None
    need, line = best
    level, since, better_at = line.standing()
    if now < better_at < state.look_at:
        state.look_at = better_at
    since = max(since, worker.left_at)
    if is_cold:
        claim = state.start_claims.get((worker.name, need))
        if claim is None:
            claim = state.start_claims[worker.name, need] = _start_claim(state, worker, need)
        claim.level, claim.since, claim.served_at = level, since, worker.left_at
        worker.start_claim = claim if len(worker.lines) == 1 else None
        return claim
    claim = Claim(worker.holder, "start", worker, level, since)
    claim.served_at = worker.left_at
    claim.is_voice = worker.is_voice
    claim.is_fixed = worker.is_pinned or worker.model.lease_class == "job"
    sizes = worker.sizes_from(need)
    if worker.phase == "ready":
        claim.kind = "grow"
    elif need <= worker.size and not worker.cannot_wake:
        claim.kind = "wake"
        sizes = [worker.size]
    else:
        claim.kind = "restart"
    held = state.pool.held(worker.holder)
    for size in sizes:
        wanted = state.pool.charge(worker.model.sizes[size].devices, is_beside=state.is_beside(worker))
        claim.ways.append(Way(size, {a: more for a, want in wanted.items() if (more := want - held.get(a, 0)) > 0}))
    return claim


def _start_claim(state: State, worker: Worker, need: int) -> Claim:
    """Return the claim of a cold worker: the same until models or the room for voice change."""
    claim = Claim(worker.holder, "start", worker, 0, 0.0)
    claim.is_voice = worker.is_voice
    claim.is_fixed = worker.is_pinned or worker.model.lease_class == "job"
    is_beside = state.is_beside(worker)
    claim.ways = [
        Way(size, dict(state.pool.charge(worker.model.sizes[size].devices, is_beside=is_beside)))
        for size in worker.sizes_from(need)
    ]
    return claim


def _claim_of_lease(state: State, line: Line, waiter: Waiter, now: float) -> Claim:
    fact = waiter.fact
    assert isinstance(fact, LeaseAsked)
    claim = Claim(("lease", waiter.id), "lease", waiter, *line.urgency_of(waiter))
    claim.is_voice = fact.lease.lease_class == "voice"
    claim.is_fixed = True
    claim.is_impatient = fact.wait_until <= now
    claim.ways = [Way(0, state.pool.charge(fact.lease.devices, is_beside=not claim.is_voice))]
    return claim
