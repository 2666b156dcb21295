"""Where somebody stands in line and how long that may take: for people, errors and pictures. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

from turnout.core.memory import PRIORITIES, Demand
from turnout.scheduler.messages import DeviceView, LeaseAsked, RequestArrived, View, WaitingView, WorkerView
from turnout.scheduler.moves import after_order, gain_of
from turnout.scheduler.queue import Line, Waiter
from turnout.scheduler.state import State
from turnout.scheduler.worker import MOVING, Worker


def position_of(state: State, waiter: Waiter, now: float) -> WaitingView:
    """Return where somebody stands."""
    ahead = waiter.line.ahead_of(waiter)
    if isinstance(waiter.fact, RequestArrived):
        expected = expected_wait(state, state.workers[waiter.fact.model], ahead, now)
    else:
        expected = lease_wait(state, waiter, ahead, now)
    return _waiting_view(waiter, ahead, expected, now)


def expected_wait(state: State, worker: Worker, ahead: int, now: float) -> float | None:
    """Return how long a request for a model is likely to wait from now, or None if that cannot be told.

    Args:
        state: Everything.
        worker: Of the model.
        ahead: How many are served before it.
        now: Monotonic seconds.
    """
    until_ready = _until_ready(state, worker, now)
    return None if until_ready is None else until_ready + _until_slot(worker, ahead, now)


def lease_wait(state: State, waiter: Waiter, ahead: int, now: float) -> float | None:
    """Return how long a lease is likely to wait from now, or None if that cannot be told: others come first."""
    if ahead or isinstance(waiter.fact, RequestArrived):
        return None
    lease = waiter.fact.lease
    return _until_room(state, state.pool.charge(lease.devices, is_beside=lease.lease_class != "voice"), None, now)


def view(state: State, now: float) -> View:
    """Return everything as it is."""
    lines = [line for worker in state.workers.values() for line in worker.lines] + list(state.lease_lines.values())
    return View(
        devices=tuple(
            DeviceView(
                device=device,
                granted_bytes=state.pool.granted(device.id),
                measured_bytes=None if (reading := state.pool.reading(device.id, now)) is None else reading.used_bytes,
                unattributed_bytes=state.pool.unattributed(device.id, now),
                free_bytes=max(0, state.pool.free(device.id, now)),
            )
            for device in state.pool.devices.values()
        ),
        workers=tuple(_worker_view(state, worker, now) for worker in state.workers.values()),
        leases=tuple(held.lease for held in state.leases.values()),
        waiting=tuple(entry for line in lines if line for entry in _line_view(state, line, now)),
    )


def _line_view(state: State, line: Line, now: float) -> Iterator[WaitingView]:
    until_ready: float | None = None
    for ahead, waiter in enumerate(line.in_order()):
        if isinstance(waiter.fact, LeaseAsked):
            yield _waiting_view(waiter, ahead, lease_wait(state, waiter, ahead, now), now)
            continue
        worker = state.workers[waiter.fact.model]
        if ahead == 0:
            until_ready = _until_ready(state, worker, now)
        expected = None if until_ready is None else until_ready + _until_slot(worker, ahead, now)
        yield _waiting_view(waiter, ahead, expected, now)


def _worker_view(state: State, worker: Worker, now: float) -> WorkerView:
    devices = state.pool.devices
    readings = {device: state.pool.reading(device, now) for device in devices}
    is_idle = worker.phase in {"ready", "asleep"} and not worker.running and not worker.waiting
    idle_seconds = worker.idle_seconds
    return WorkerView(
        model=worker.name,
        phase=worker.phase,
        lease_class=worker.model.lease_class,
        size="" if worker.phase in {"cold", "failed"} else worker.model.sizes[worker.size].name,
        devices={device: amount for device, amount in state.pool.held(worker.holder).items() if device in devices},
        measured={
            device: reading.by_holder[worker.name]
            for device, reading in readings.items()
            if reading is not None and worker.name in reading.by_holder
        },
        running=len(worker.running),
        waiting=worker.waiting,
        idle_seconds=idle_seconds,
        put_away_in_seconds=max(0.0, worker.idle_since + idle_seconds - now)
        if is_idle and idle_seconds is not None
        else None,
        is_unloading=worker.is_unloading,
        load_seconds=worker.load_seconds(worker.model.preferred_size),
        wake_seconds=worker.wake_seconds(max(0, worker.level)) if worker.model.sleep_levels else None,
        detail=worker.failure or ("makes way" if worker.gated_for is not None else ""),
    )


def _waiting_view(waiter: Waiter, ahead: int, expected: float | None, now: float) -> WaitingView:
    return WaitingView(
        id=waiter.id,
        model=waiter.fact.model if isinstance(waiter.fact, RequestArrived) else "",
        priority=PRIORITIES[waiter.priority],
        position=ahead + 1,
        waited_seconds=max(0.0, now - waiter.since),
        expected_wait_seconds=expected,
    )


def _until_slot(worker: Worker, ahead: int, now: float) -> float:
    """Return how long it is likely to take until a ready worker has a slot for whoever has so many before it."""
    behind = ahead + len(worker.running) - worker.slots
    if behind < 0:
        return 0.0
    return worker.next_end_seconds(now) + (behind // worker.slots) * worker.service.seconds


def _until_ready(state: State, worker: Worker, now: float) -> float | None:
    """Return how long it is likely to take until a worker is ready."""
    size = worker.size
    elapsed = now - worker.ordered_at
    match worker.phase:
        case "ready":
            return 0.0
        case "loading":
            return max(0.0, worker.load_seconds() - elapsed)
        case "waking":
            return max(0.0, worker.wake_seconds(worker.level) - elapsed)
        case "resizing":
            return max(0.0, worker.resize_seconds() - elapsed)
        case "asleep" | "falling_asleep":
            start = worker.wake_seconds(max(0, worker.level, worker.goal if worker.phase == "falling_asleep" else 0))
        case _:
            size = worker.model.preferred_size
            start = worker.load_seconds(size)
    devices = worker.model.sizes[size].devices
    room = _until_room(state, state.pool.charge(devices, is_beside=state.is_beside(worker)), worker, now)
    return None if room is None else max(room, worker.retry_at - now) + start


def _until_room(state: State, charge: Demand, own: Worker | None, now: float) -> float | None:
    """Return when a demand is likely to fit, if everybody ends as usual and makes way; None if nobody can tell."""
    held = {} if own is None else state.pool.held(own.holder)
    lacking = {
        account: amount - state.pool.free_by_book(account) - held.get(account, 0) for account, amount in charge.items()
    }
    if all(lack <= 0 for lack in lacking.values()):
        return 0.0
    releases: list[tuple[float, Demand]] = []
    for worker in state.workers.values():
        if worker is own or worker.is_pinned or worker.phase in {"cold", "failed"}:
            continue
        after: Demand = {}
        if worker.phase in {"falling_asleep", "stopping"}:
            seconds = worker.put_away_seconds()
            after = after_order(worker)
        elif worker.phase in MOVING:
            seconds = worker.load_seconds() + worker.model.min_residency_seconds
        else:
            stays = worker.stays_until(is_idle=not worker.running) - now if worker.phase == "ready" else 0.0
            seconds = max(0.0, stays, worker.remaining_seconds(now)) + worker.put_away_seconds()
        releases.append((seconds, gain_of(state, worker, after, now, by_use=False)))
    for held_lease in state.leases.values():
        gain = state.pool.held(("lease", held_lease.lease.id))
        releases.append((max(0.0, held_lease.expires_at - now), gain))
    for seconds, gain in sorted(releases, key=lambda release: release[0]):
        for account in lacking:
            lacking[account] -= gain.get(account, 0)
        if all(lack <= 0 for lack in lacking.values()):
            return seconds
    return None
