"""Why somebody may not even wait: the refusals that need no decision about room, with words that help."""

from __future__ import annotations

from turnout.core.memory import GIB, Demand
from turnout.scheduler import messages as m
from turnout.scheduler.outlook import expected_wait
from turnout.scheduler.state import State
from turnout.scheduler.worker import Worker


def objection(state: State, fact: m.RequestArrived, worker: Worker | None, now: float) -> m.RefuseRequest | None:
    """Return why a request may not even wait, or None."""
    if state.is_stopping:
        return refusal(fact, "stopping", "the daemon is closing; ask again when it is back")
    if worker is None or worker.is_removed:
        return refusal(fact, "removed", f"there is no model {fact.model!r} (any more)")
    if fact.deadline is not None and fact.deadline <= now:
        return refusal(fact, "deadline", "its deadline had passed when it arrived")
    if worker.phase == "failed" and now < worker.retry_at:
        return refusal(fact, "failed", worker.failure, worker.retry_at - now)
    need = worker.least_size(fact.least_quality)
    if need is None:
        best = max(size.quality for size in worker.model.sizes)
        message = f"{worker.name} has no size of quality {fact.least_quality} or more; its best is {best}"
        return refusal(fact, "too_large", message)
    if message := _too_large(state, worker, need):
        return refusal(fact, "too_large", message)
    if worker.waiting >= worker.model.queue_limit:
        expected = expected_wait(state, worker, 0, now)
        retry = state.settings.aging_seconds if expected is None else max(1.0, expected)
        message = f"{worker.waiting} requests wait for {worker.name} already, as many as may"
        return refusal(fact, "queue_full", message, retry)
    return None


def _too_large(state: State, worker: Worker, need: int) -> str:
    """Return why no size that is good enough can ever fit, or an empty string."""
    known = state.too_large.get((worker.name, need))
    if known is None:
        known = state.too_large[worker.name, need] = _why_too_large(state, worker, need)
    return known


def _why_too_large(state: State, worker: Worker, need: int) -> str:
    for size in worker.sizes_from(need):
        if state.can_ever_hold(worker.model.sizes[size].devices, worker, is_voice=worker.is_voice):
            return ""
    return f"{worker.name} is too large: {words_of(state, worker.model.sizes[need].devices, worker)}"


def words_of(state: State, devices: Demand, worker: Worker | None) -> str:
    """Say what a demand wants, and what there is."""
    parts = []
    for device, amount in devices.items():
        if device not in state.pool.devices:
            parts.append(f"there is no device {device!r}")
            continue
        pinned, voice = state.pinned(device, worker), state.pool.set_aside.get(device, 0)
        parts.append(
            f"it wants {in_gib(amount)} of {device}, of which {in_gib(state.pool.capacity(device))} can be granted"
            + (f", {in_gib(pinned)} are pinned" if pinned else "")
            + (f", {in_gib(voice)} are set aside for voice" if voice else "")
        )
    return "; ".join(parts)


def refuse_impossible(state: State) -> None:
    """Refuse who cannot fit any more after a pinned worker or other models have come."""
    for worker in state.workers.values():
        for need, line in enumerate(worker.lines):
            if line and (message := _too_large(state, worker, need)):
                for waiter in list(line):
                    state.refuse(waiter, "too_large", message)
    for line in state.lease_lines.values():
        for waiter in list(line):
            assert isinstance(waiter.fact, m.LeaseAsked)
            lease = waiter.fact.lease
            if not state.can_ever_hold(lease.devices, None, is_voice=lease.lease_class == "voice"):
                state.refuse_lease(waiter, words_of(state, lease.devices, None))


def refusal(
    fact: m.RequestArrived, reason: m.RefusalReason, message: str, retry_after_seconds: float | None = None
) -> m.RefuseRequest:
    """Refuse a request that does not wait."""
    return m.RefuseRequest(ticket=fact.ticket, reason=reason, message=message, retry_after_seconds=retry_after_seconds)


def in_gib(amount: int) -> str:
    """Return bytes in words."""
    return f"{amount / GIB:.1f} GiB"
