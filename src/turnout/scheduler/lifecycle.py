"""What becomes of workers and models: one function for each fact about them."""

from __future__ import annotations

from turnout.core.memory import Model
from turnout.scheduler import messages as m
from turnout.scheduler.objections import refusal
from turnout.scheduler.state import NEVER, State
from turnout.scheduler.worker import CLOSED, OPEN, STARTING, Worker


def _worker_of(state: State, fact: m.WorkerReady | m.WorkerAsleep | m.WorkerGone | m.OrderFailed) -> Worker | None:
    """Return whom a fact is about; None if that is nobody, or an order or a worker that has ended already."""
    worker = state.workers.get(fact.model)
    if worker is None or not fact.order:
        return worker
    if isinstance(fact, m.WorkerGone):  # whatever it was ordered to do since its start
        return worker if fact.order >= worker.start_number else None
    return worker if fact.order == worker.order_number else None


def worker_ready(state: State, fact: m.WorkerReady, now: float) -> None:
    """A start, a wake or a change of size has ended well."""
    worker = _worker_of(state, fact)
    if worker is None or worker.phase not in STARTING:
        return
    worker.learn_start(fact.seconds)
    if worker.phase == "resizing":
        worker.set_size(worker.goal)
    worker.level = -1
    worker.ready_at = worker.idle_since = now
    worker.retry_at = 0.0
    worker.failure = ""
    _settled_in(state, worker, "ready", now)


def worker_asleep(state: State, fact: m.WorkerAsleep, now: float) -> None:
    """A worker has fallen asleep."""
    worker = _worker_of(state, fact)
    if worker is None or worker.phase != "falling_asleep":
        return
    worker.learn_sleep(fact.seconds)
    levels = [level.level for level in worker.model.sleep_levels]
    worker.level = levels.index(fact.level) if fact.level in levels else worker.goal
    worker.idle_since = now
    _settled_in(state, worker, "asleep", now)


def order_failed(state: State, fact: m.OrderFailed, now: float) -> None:
    """A worker could not do what it was ordered to; it is not asked again until it was started anew."""
    worker = _worker_of(state, fact)
    if worker is None:
        return
    if worker.phase == "falling_asleep":
        worker.cannot_sleep = True
    elif worker.phase == "waking":
        worker.cannot_wake = True
    elif worker.phase == "resizing":
        worker.cannot_resize = True
    else:
        return
    _settled_in(state, worker, worker.before, now)


def _settled_in(state: State, worker: Worker, phase: m.WorkerPhase, now: float) -> None:
    """An order has ended: the worker is there, ready or asleep, and holds what that takes."""
    worker.phase = phase
    worker.order = None
    worker.gate = CLOSED if worker.is_removed or worker.next_model is not None else OPEN
    devices = worker.sleeps_at.devices if phase == "asleep" else worker.devices
    state.pool.hold(worker.holder, devices, is_beside=state.is_beside(worker))
    state.admit(worker, now)  # before anybody else may take it away: each load serves somebody
    if worker.is_pinned:
        state.set_limits()
    state.is_unsettled = True
    fell_idle(state, worker, now)


def worker_gone(state: State, fact: m.WorkerGone, now: float) -> None:
    """There is no worker any more: its memory is free, and its requests have ended with it."""
    worker = _worker_of(state, fact)
    if worker is None or worker.phase in {"cold", "failed"}:
        return
    if worker.phase == "ready":
        worker.left_at = now
    worker.phase = "cold"
    worker.order = None
    worker.level = -1
    worker.gate = OPEN
    worker.gated_for = None
    worker.keep(None)
    worker.is_unloading = False
    state.pool.release(worker.holder)
    for ticket in worker.running:
        del state.running[ticket]
    worker.running.clear()
    worker.retry_at = now + (fact.retry_in or 0.0)
    if worker.is_removed:
        del state.workers[worker.name]
    elif worker.next_model is not None:
        _change_words(state, worker, worker.next_model, now)
        state.set_limits()
    if worker.is_pinned or worker.is_removed:
        state.set_limits()
    if fact.retry_in is None:
        worker.phase = "failed"
        worker.retry_at = now + state.settings.failed_seconds
        worker.failure = f"{worker.name} cannot be started: {fact.reason or 'no reason was given'}"
        state.refuse_all(worker, "failed", worker.failure, state.settings.failed_seconds)
    state.is_unsettled = True


def fell_idle(state: State, worker: Worker, now: float) -> None:
    """See to a worker on which nothing may run any more: it ends as asked, or is looked at when idle for too long."""
    if worker.running or worker.phase not in {"ready", "asleep"}:
        return
    if worker.is_unloading:
        state.stop(worker, "somebody asked to unload it", now)
    elif (seconds := worker.idle_seconds) is not None:
        at = worker.idle_since + seconds
        if at <= now:  # a timer would be late: by its time the worker may be gone
            put_away(state, worker, now)
        elif at < worker.idle_look_at:
            worker.idle_look_at = at
            state.remind(at, "idle", worker.name)


def put_away(state: State, worker: Worker, now: float) -> None:
    """Look whether a worker is idle for too long: it sleeps, deeper the next time, and at last is stopped.

    One that is not to be kept at all (0 seconds) is stopped at once: nobody expects it to come back soon.
    """
    worker.idle_look_at = NEVER
    seconds = worker.idle_seconds
    if seconds is None or worker.phase not in {"ready", "asleep"} or worker.running or worker.waiting:
        return
    if now < worker.idle_since + seconds:
        fell_idle(state, worker, now)
        return
    reason = f"idle for {now - worker.idle_since:.0f} s"
    can_sleep = seconds > 0 and not worker.cannot_sleep
    for level in range(worker.level + 1, len(worker.model.sleep_levels) if can_sleep else 0):
        if state.has_room_to_sleep(worker, level, now):
            state.sleep(worker, level, reason, now)
            return
    state.stop(worker, reason, now)


def unload_asked(state: State, fact: m.UnloadAsked, now: float) -> None:
    """Somebody wants a worker to end: nobody is admitted any more, and it stops when nothing runs on it."""
    worker = state.workers.get(fact.model)
    if worker is None or worker.phase in {"cold", "failed", "stopping"}:
        return
    worker.is_unloading = True
    worker.next_model = worker.next_model or worker.model
    worker.gate = CLOSED
    fell_idle(state, worker, now)
    state.is_unsettled = True


def model_added(state: State, fact: m.ModelAdded, now: float) -> None:
    """A model has come, or has other words now."""
    worker = state.workers.get(fact.model.name)
    if worker is None:
        state.workers[fact.model.name] = Worker(fact.model, state.settings)
    elif worker.fits(fact.model) and not worker.is_unloading:
        worker.is_removed = False
        _change_words(state, worker, fact.model, now)
        fell_idle(state, worker, now)
    else:
        worker.is_removed = False
        worker.next_model = fact.model
    state.set_limits()


def _change_words(state: State, worker: Worker, model: Model, now: float) -> None:
    """Give a worker new words, and those who wait for it their places under them."""
    for line in worker.lines:
        line.age(now)
    waiters = sorted((waiter for line in worker.lines for waiter in line), key=lambda waiter: waiter.level_since)
    for waiter in waiters:
        state.step_out(waiter)
    worker.set_model(model)
    worker.gate = OPEN
    for waiter in waiters:
        fact = waiter.fact
        assert isinstance(fact, m.RequestArrived)
        need = worker.least_size(fact.least_quality)
        if need is None:
            message = f"{worker.name} has no size of quality {fact.least_quality} or more any more"
            state.effects.append(refusal(fact, "too_large", message))
            continue
        waiter.line = worker.lines[need]
        state.line_up(waiter, now)
    state.admit(worker, now)


def model_removed(state: State, fact: m.ModelRemoved, now: float) -> None:  # noqa: ARG001  every taker gets the time
    """A model was taken away: who waits for it is refused, its worker ends when nothing runs on it."""
    worker = state.workers.get(fact.name)
    if worker is None:
        return
    worker.is_removed = True
    worker.gate = CLOSED
    state.refuse_all(worker, "removed", f"the model {fact.name!r} was removed")
    if worker.phase in {"cold", "failed"}:
        del state.workers[fact.name]
    state.set_limits()
