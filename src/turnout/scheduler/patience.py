"""When it is better to wait than to move a worker that others want: pure arithmetic of expected waits.

Without it, whoever asks for a model that is not there has another one stopped at once; and if that one is in constant
use, it is back a few seconds later, and somebody else has gone. Both answers here are bounded: an overdue claim has
patience for ``patience_steps`` of age, and then none.
"""

from __future__ import annotations

from turnout.core.memory import Demand
from turnout.scheduler.claims import Claim
from turnout.scheduler.evict import Candidate, Choice, Option, choose
from turnout.scheduler.moves import Movable
from turnout.scheduler.reserve import Reserve
from turnout.scheduler.state import Held, State
from turnout.scheduler.worker import Worker

LEAST_PRICE_SECONDS = 1.0
"""Nobody waits for the sake of those who would wait less than this themselves."""
LOWER_PATIENCE = 2.0
JOB_PATIENCE = 16.0
"""Who is less urgent, and who asks for room for a job, lingers so many times as long as who is interactive."""
LEAST_LINGER_SECONDS = 0.001
"""Less may be nothing at all in the digits of a clock, and nobody would look again."""
LOOK_AGAIN_SECONDS = 2.0
"""Expectations are looked at again after this time, even if nothing happens."""


def linger_seconds(state: State, claim: Claim, plan: list[Choice], now: float) -> float | None:
    """Return for how much longer to leave idle workers where they are although a claim could have their room.

    As with rented skis: once those with the claim have together waited for as long as others are likely to wait because
    of the move, it is worth it; and after ``linger_per_load`` times what it takes to get the workers back in any case,
    or a multiple of that for those who are in less of a hurry.
    How often the claim's own model is wanted counts against that price. Callers who wait with the claim are not
    expected to want the other models meanwhile: a person who goes from one model to another never waits for this.

    Args:
        state: Everything.
        claim: Whose.
        plan: What would be moved.
        now: Monotonic seconds.

    Returns:
        Seconds, not above 0 if it has waited long enough; None if nobody else wants the workers.
    """
    settings, callers = state.settings, claim.callers()
    price = back = 0.0
    for name, option in plan:
        worker = state.workers[name]
        if claim.is_voice and worker.is_voice:
            continue  # they share a room of their own
        seconds = _seconds_to_get_back(worker, option)
        price += seconds * worker.interest.occasions_within(settings.reuse_seconds, now, callers)
        back += seconds
    if price < LEAST_PRICE_SECONDS:
        return None
    if isinstance(claim.owner, Worker):
        own = claim.owner.interest.occasions_within(settings.reuse_seconds, now)
        price -= claim.owner.load_seconds() * own
    most = settings.linger_per_load * back
    if claim.is_job:
        most *= JOB_PATIENCE
    elif claim.level > 0:
        most *= LOWER_PATIENCE
    return min(price / claim.count(), most) - (now - claim.waiting_since())


def plan_to_wait(
    state: State, movable: Movable, reserve: Reserve, claim: Claim, need: Demand, plan: list[Choice], now: float
) -> list[str] | None:
    """Return who should make way if it is cheaper to wait than to move anybody now, or None if it is not.

    Waited for are workers that start, that are busy or have not had their least time, and foreign programs, which hold
    their leases for about as long as the same program did before.

    Args:
        state: Everything.
        movable: Who may be moved.
        reserve: What is free.
        claim: Whose.
        need: Bytes by account.
        plan: What would be moved now.
        now: Monotonic seconds.
    """
    price = sum([option.price for _, option in plan])
    now_or_later: list[Worker] = []
    is_anybody_later = False
    for worker in movable.others(claim) + movable.starting():
        waits = movable.wait_for(worker, claim)
        if waits > 0 and claim.cost_of_waiting(waits, now) >= price:
            continue  # alone dearer than the whole plan
        is_anybody_later = is_anybody_later or waits > 0
        now_or_later.append(worker)
    leaves = [leave for held in state.leases.values() if (leave := _leave(state, claim, held, now)) is not None]
    leaves = [leave for leave in leaves if leave.options[0].price < price]
    if not is_anybody_later and not leaves:
        return None
    found = [movable.candidate(worker, claim, by_use=False) for worker in now_or_later] + leaves
    cheaper = [one for one in found if min([option.price for option in one.options]) < price]
    better = choose(need, reserve.spare(), cheaper)
    if better is None:
        return None
    names = {name for name, _ in better}
    chosen = [worker for worker in now_or_later if worker.name in names]
    if len(chosen) == len(names) and all(movable.wait_for(worker, claim) <= 0 for worker in chosen):
        return None
    return [
        worker.name
        for worker in chosen
        if worker.phase == "ready" and not movable.is_protected(worker, claim) and (worker.running or worker.waiting)
    ]


def _leave(state: State, claim: Claim, held: Held, now: float) -> Candidate | None:
    """Return what it costs to wait until a foreign program has ended, if anybody knows."""
    rest = state.lease_rest_seconds(held, now)
    if rest is None:
        return None
    gain = state.pool.held(("lease", held.lease.id))
    return Candidate(held.lease.id, (Option("stop", 0, gain, claim.cost_of_waiting(rest, now)),))


def _seconds_to_get_back(worker: Worker, option: Option) -> float:
    if option.move == "sleep":
        seconds = worker.wake_seconds(option.index)
    elif option.move == "resize":
        seconds = worker.resize_seconds()
    else:
        seconds = worker.load_seconds()
    return max(0.0, seconds - (worker.wake_seconds(worker.level) if worker.phase == "asleep" else 0.0))
