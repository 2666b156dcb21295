"""``lru``: the way of Ollama. First come first served, idle first, shortest keep-alive.

Follows https://github.com/ollama/ollama, ``server/sched.go`` at commit fb30760996871fa9460115c753afd2c60d4ab0f7
(2026-08-21) and its defaults in ``envconfig/config.go``:

* A request for a loaded model goes to it at once, past everybody who waits, also while that model is about to be put
  away as soon as it is idle. All others stand in one line of 512; who finds it full is refused.
* One loop serves that line, strictly in order. Whatever the first one needs (room, an unload, a load) blocks the rest.
* A model that fits into what is predicted to be free is loaded. If it does not fit, or three models for each GPU are
  loaded, the first of the loaded ones is put away, in the order of keep-alive and then of name: the first idle one, or
  if none is idle the first of all, which then goes as soon as it is. Then everything is looked at again.
* A model that was idle for its keep-alive (five minutes; for ever where the profile pins it) is unloaded.

Left out, each time in its favour: the fifth of the free memory that it keeps back when it asks whether a model fits
(a profile's headroom plays that part for all policies); a limit of one request at a time for each model (the profile's
slots count for all) and for embeddings; loads that end when the caller who began them leaves; running out of memory,
context and batch sizes; layers that spill into the machine's memory; more than one GPU for a model.

It has no leases. So that a workload with foreign programs can be compared at all, one that asks for memory stands in
the same line as a model without a load and a keep-alive of 0: nobody's images are lost, as they would be in practice.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from turnout.core.memory import Device, Model
from turnout.scheduler.messages import (
    AdmitRequest,
    Effect,
    Fact,
    GrantLease,
    LeaseAsked,
    LeaseReleased,
    RefuseLease,
    RefuseRequest,
    RequestArrived,
    RequestFinished,
    RequestLeft,
    StartWorker,
    StopWorker,
    Ticked,
    WorkerGone,
    WorkerReady,
)
from turnout.simulate.policies.base import Shared

KEEP_ALIVE_SECONDS = 300.0
MODELS_PER_GPU = 3
LONGEST_LINE = 512


class _Runner:
    """A loaded model."""

    def __init__(self, keep_alive_seconds: float) -> None:
        self.keep_alive_seconds = keep_alive_seconds
        self.users = 0
        self.expires_at = math.inf


class Lru(Shared):
    """Ollama's scheduler.

    Args:
        devices: What there is.
        models: What may be on it.
    """

    def __init__(self, devices: Sequence[Device], models: Sequence[Model]) -> None:
        super().__init__(devices, models)
        self._most_models = MODELS_PER_GPU * max(1, sum(device.kind != "ram" for device in devices))
        self._loaded: dict[str, _Runner] = {}
        self._unloading: set[str] = set()
        self._line: deque[RequestArrived | LeaseAsked] = deque()
        self._first: RequestArrived | LeaseAsked | None = None
        """Whom the loop works for now; it is not in the line any more."""
        self._loading = ""
        self._waits_for_unload = False
        self._left: set[str] = set()
        """Of those in the line or first: they have gone."""
        self._running: dict[str, str] = {}
        self._effects: list[Effect] = []

    def decide(self, fact: Fact, now: float) -> list[Effect]:
        """Take a fact in and return what has to be done, in this order."""
        self._effects = []
        match fact:
            case RequestArrived():
                self._arrive(fact)
            case LeaseAsked():
                self._line.append(fact)
            case RequestFinished() | RequestLeft():
                self._end(fact.ticket, now)
            case LeaseReleased():
                if (lease := self.leases.pop(fact.id, None)) is not None:
                    self.give_back(lease.devices)
                    self._waits_for_unload = False  # more memory is free: worth another look
                else:
                    self._left.add(fact.id)
            case WorkerReady():
                self._loaded_now(now)
            case WorkerGone():
                self._unloading.discard(fact.model)
                self.give_back(self.footprint(fact.model))
                self._waits_for_unload = False
            case Ticked():
                for name, runner in list(self._loaded.items()):
                    if runner.expires_at <= now:
                        self._unload(name, "idle for its keep-alive")
            case _:
                pass
        self._serve_line()
        return self._effects

    def next_at(self) -> float | None:
        """Return when the next keep-alive ends, or None."""
        first = min((runner.expires_at for runner in self._loaded.values()), default=math.inf)
        return None if first == math.inf else first

    def _arrive(self, request: RequestArrived) -> None:
        if request.model in self._loaded:
            self._use(request)
        elif len(self._line) >= LONGEST_LINE:
            message = "server busy: too many pending requests"
            self._effects.append(RefuseRequest(ticket=request.ticket, reason="queue_full", message=message))
        else:
            self._line.append(request)

    def _use(self, request: RequestArrived) -> None:
        runner = self._loaded[request.model]
        runner.users += 1
        runner.expires_at = math.inf
        self._running[request.ticket] = request.model
        self._effects.append(AdmitRequest(ticket=request.ticket, model=request.model))

    def _end(self, ticket: str, now: float) -> None:
        name = self._running.pop(ticket, None)
        if name is None:
            self._left.add(ticket)
            return
        runner = self._loaded[name]
        runner.users -= 1
        if not runner.users:
            self._becomes_idle(name, runner, now)

    def _becomes_idle(self, name: str, runner: _Runner, now: float) -> None:
        if runner.keep_alive_seconds <= 0:
            self._unload(name, "room is needed")
        else:
            runner.expires_at = now + runner.keep_alive_seconds

    def _unload(self, name: str, reason: str) -> None:
        del self._loaded[name]
        self._unloading.add(name)
        self._effects.append(StopWorker(model=name, reason=reason))

    def _loaded_now(self, now: float) -> None:
        name, self._loading = self._loading, ""
        is_pinned = self.models[name].lease_class == "pinned"
        runner = self._loaded[name] = _Runner(math.inf if is_pinned else KEEP_ALIVE_SECONDS)
        request, self._first = self._first, None
        assert isinstance(request, RequestArrived)
        if request.ticket in self._left:
            self._left.discard(request.ticket)
            self._becomes_idle(name, runner, now)
        else:
            self._use(request)

    def _serve_line(self) -> None:
        while not self._loading and not self._waits_for_unload:
            if self._first is None:
                if not self._line:
                    return
                self._first = self._line.popleft()
            if self._is_gone(self._first):
                self._first = None
            elif isinstance(self._first, LeaseAsked):
                self._serve_lease(self._first)
            else:
                self._serve_request(self._first)

    def _is_gone(self, first: RequestArrived | LeaseAsked) -> bool:
        id_ = first.lease.id if isinstance(first, LeaseAsked) else first.ticket
        is_gone = id_ in self._left
        self._left.discard(id_)
        return is_gone

    def _serve_request(self, request: RequestArrived) -> None:
        name = request.model
        if name in self._loaded:
            self._use(request)
            self._first = None
        elif not self.fits_at_all(self.footprint(name)):
            message = "model is too large for system memory"
            self._effects.append(RefuseRequest(ticket=request.ticket, reason="too_large", message=message))
            self._first = None
        elif name in self._unloading:
            self._waits_for_unload = True
        elif len(self._loaded) < self._most_models and self.fits(self.footprint(name)):
            self.take(self.footprint(name))
            self._loading = name
            self._effects.append(StartWorker(model=name, size=self.size_name(name), devices=dict(self.footprint(name))))
        else:
            self._make_room()

    def _serve_lease(self, asked: LeaseAsked) -> None:
        lease = asked.lease
        if not self.fits_at_all(lease.devices):
            self._effects.append(RefuseLease(id=lease.id, position=1, message="it never fits", too_large=True))
            self._first = None
        elif self.fits(lease.devices):
            self.take(lease.devices)
            self.leases[lease.id] = lease
            self._effects.append(GrantLease(id=lease.id, ttl_seconds=asked.ttl_seconds))
            self._first = None
        else:
            self._make_room()

    def _make_room(self) -> None:
        self._waits_for_unload = True
        by_keep_alive = sorted(self._loaded, key=lambda name: (self._loaded[name].keep_alive_seconds, name))
        if not by_keep_alive:
            return  # a foreign program has the room, or an unload is under way: its end is waited for
        name = next((name for name in by_keep_alive if not self._loaded[name].users), by_keep_alive[0])
        runner = self._loaded[name]
        runner.keep_alive_seconds = 0.0
        if not runner.users:
            self._unload(name, "room is needed")
