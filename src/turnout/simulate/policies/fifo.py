"""``fifo``: the way of llama-swap. First come first served, but whoever asks for a running model is served at once.

Follows https://github.com/mostlygeek/llama-swap, ``internal/router/scheduler/fifo.go`` (its only scheduler), with
``internal/router/base.go`` and ``internal/matrix/program.go``, at commit 0bdb3720199f530b622a1934c0db89f32c94819c
(2026-08-22):

* A request for a model that is running goes to it at once. One for a model that is being loaded joins that load. So
  ``A B C A B C`` becomes ``A A B B C C``.
* A request whose load would stop a model that is serving, or would collide with a load under way (each wants to stop
  the other, or both want to stop the same), waits in a line. Otherwise its load begins: first the models in the way are
  stopped, then it starts. Loads that do not collide run side by side.
* When a load ends or a model has served its last request, the line is walked once in the order of arrival, each by the
  same rules. Nothing ages, nothing has a minimum time, and nobody's turn is held free for them.
* Which models have to go is the matrix's choice: of the sets of models that may be loaded together, the one that stops
  the fewest running models.

Given to it: the sets. It knows no memory, its user writes down what fits; here they are all the sets that fit by the
profile's footprints, with what is pinned in every one of them. Left out: its limit of ten requests for each model (a
user of bursts would set another; the profile's slots and length of line count for all), priorities by model, costs by
model, unloading after a time (both are off by default), failed loads.

It has no leases. So that a workload with foreign programs can be compared at all, one that asks for memory is treated
as a model without a load that is stopped when it is done (llama-swap runs a ComfyUI that way).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from turnout.core.memory import Demand, Device, Lease, Model
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
    WorkerGone,
    WorkerReady,
)
from turnout.simulate.policies.base import Shared


class _Swap:
    """A load under way, and who waits for it."""

    def __init__(self, evicted: Sequence[str]) -> None:
        self.evicted = frozenset(evicted)
        self.still_there = set(evicted)
        self.waiters: dict[str, None] = {}


class Fifo(Shared):
    """llama-swap's scheduler.

    Args:
        devices: What there is.
        models: What may be on it.
    """

    def __init__(self, devices: Sequence[Device], models: Sequence[Model]) -> None:
        super().__init__(devices, models)
        self._ready: set[str] = set()
        self._stopping: set[str] = set()
        self._swaps: dict[str, _Swap] = {}
        self._serving: dict[str, int] = {}
        self._running: dict[str, str] = {}
        self._line: dict[str, deque[tuple[int, str]]] = {}
        """Who waits, by model, each with its number of arrival. A walk through the one line of the original comes to
        the same decision for all who wait for one model, at the place of the first of them."""
        self._numbers = itertools.count()
        self._reserved: dict[str, int] = {}
        self._model_of: dict[str, str] = {}
        self._asked: dict[str, LeaseAsked] = {}
        self._is_walking = self._walks_again = False
        self._effects: list[Effect] = []
        self._evictions: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}

    def decide(self, fact: Fact, now: float) -> list[Effect]:  # noqa: ARG002  it does not look at the time
        """Take a fact in and return what has to be done, in this order."""
        self._effects = []
        match fact:
            case RequestArrived():
                self._arrive(fact)
            case LeaseAsked():
                self._ask(fact)
            case RequestFinished() | RequestLeft():
                self._end(fact.ticket)
            case LeaseReleased():
                self._release(fact.id)
            case WorkerReady():
                self._ready.add(fact.model)
                self._swap_done(fact.model)
            case WorkerGone():
                self._stopping.discard(fact.model)
                self.give_back(self.footprint(fact.model))
                for target, swap in list(self._swaps.items()):
                    swap.still_there.discard(fact.model)
                    self._start_if_free(target, swap)
            case _:
                pass
        return self._effects

    def next_at(self) -> None:
        """Return None: nothing here happens by itself."""

    def _arrive(self, request: RequestArrived) -> None:
        model = self.models[request.model]
        if not self.fits_at_all(self.footprint(model.name)):
            message = "no set holds this model"
            self._effects.append(RefuseRequest(ticket=request.ticket, reason="too_large", message=message))
            return
        limit = model.queue_limit + (model.slots or 0)
        if self._reserved.get(model.name, 0) >= limit:
            message = "too many requests for this model"
            self._effects.append(RefuseRequest(ticket=request.ticket, reason="queue_full", message=message))
            return
        self._reserved[model.name] = self._reserved.get(model.name, 0) + 1
        self._model_of[request.ticket] = model.name
        self._take_on(request.ticket, model.name)

    def _ask(self, asked: LeaseAsked) -> None:
        id_ = asked.lease.id
        if not self.fits_at_all(asked.lease.devices):
            self._effects.append(RefuseLease(id=id_, position=1, message="it never fits", too_large=True))
            return
        self._asked[id_] = asked
        self._model_of[id_] = id_
        self._take_on(id_, id_)

    def _take_on(self, ticket: str, name: str) -> None:
        if not self._try(ticket, name):
            self._line.setdefault(name, deque()).append((next(self._numbers), ticket))

    def _try(self, ticket: str, name: str) -> bool:
        """Serve somebody, let them join a load, or begin one; return False if they have to wait in the line."""
        if name in self._swaps:
            self._swaps[name].waiters[ticket] = None
            return True
        evict = self._eviction_for(name)
        if self._collides(name, evict):
            return False
        if name in self._ready and not evict:
            self._serve(ticket, name)
            return True
        if any(self._serving.get(other) or other in self.leases for other in evict):
            return False
        self._begin_swap(ticket, name, evict)
        return True

    def _collides(self, name: str, evict: tuple[str, ...]) -> bool:
        return any(
            target in evict or name in swap.evicted or not swap.evicted.isdisjoint(evict)
            for target, swap in self._swaps.items()
        )

    def _begin_swap(self, ticket: str, name: str, evict: tuple[str, ...]) -> None:
        swap = self._swaps[name] = _Swap(evict)
        swap.waiters[ticket] = None
        for other in evict:
            self._ready.discard(other)
            self._stopping.add(other)
            self._effects.append(StopWorker(model=other, reason=f"{name} is wanted"))
        self._start_if_free(name, swap)

    def _start_if_free(self, name: str, swap: _Swap) -> None:
        if swap.still_there or name in self._stopping:
            return
        if name in self.models:
            if not self.fits(self.footprint(name)):
                return  # the sets say that it fits; a stop of another swap is still under way
            swap.still_there = {name}
            self.take(self.footprint(name))
            self._effects.append(StartWorker(model=name, size=self.size_name(name), devices=dict(self.footprint(name))))
        elif self.fits(self._asked[name].lease.devices):
            self.take(self._asked[name].lease.devices)
            self._swap_done(name)

    def _swap_done(self, name: str) -> None:
        swap = self._swaps.pop(name)
        for ticket in swap.waiters:
            self._serve(ticket, name)
        if name in self._asked and not swap.waiters:
            self.give_back(self._asked.pop(name).lease.devices)  # whoever asked has gone
        self._walk_line()

    def _serve(self, ticket: str, name: str) -> None:
        if name in self.models:
            self._serving[name] = self._serving.get(name, 0) + 1
            self._running[ticket] = name
            self._effects.append(AdmitRequest(ticket=ticket, model=name))
        else:
            asked = self._asked[ticket]
            self.leases[ticket] = asked.lease
            self._effects.append(GrantLease(id=ticket, ttl_seconds=asked.ttl_seconds))

    def _end(self, ticket: str) -> None:
        if (name := self._running.pop(ticket, None)) is None:
            self._prune(ticket)
            return
        self._forget(ticket)
        self._serving[name] -= 1
        if not self._serving[name]:
            self._walk_line()

    def _release(self, id_: str) -> None:
        if (lease := self.leases.pop(id_, None)) is None:
            self._prune(id_)
            return
        del self._asked[id_]
        self._forget(id_)
        self.give_back(lease.devices)
        for target, swap in list(self._swaps.items()):
            self._start_if_free(target, swap)
        self._walk_line()

    def _prune(self, ticket: str) -> None:
        """Take somebody who left out of the line or out of a load; the load goes on."""
        if (name := self._forget(ticket)) is None:
            return
        if name in self._swaps and ticket in self._swaps[name].waiters:
            del self._swaps[name].waiters[ticket]
        elif line := self._line.get(name):
            self._line[name] = deque(entry for entry in line if entry[1] != ticket)
            if not self._line[name]:
                del self._line[name]
            self._asked.pop(ticket, None)

    def _forget(self, ticket: str) -> str | None:
        if (name := self._model_of.pop(ticket, None)) in self.models:
            self._reserved[name] -= 1
        return name

    def _walk_line(self) -> None:
        if self._is_walking:  # a lease is granted without a load in between, in the middle of a walk
            self._walks_again = True
            return
        self._is_walking = True
        for name in sorted(self._line, key=lambda name: self._line[name][0]):
            line = self._line[name]
            while line and self._try(line[0][1], name):
                line.popleft()
            if not line:
                del self._line[name]
        self._is_walking = False
        if self._walks_again:
            self._walks_again = False
            self._walk_line()

    def _eviction_for(self, target: str) -> tuple[str, ...]:
        """Return which running models have to stop so that the rest and the target are a set that fits."""
        running = (self._ready | self._stopping | self._swaps.keys() | self.leases.keys()) - {target}
        if target in self._ready:
            return ()
        key = (target, frozenset(running))
        if target in self._asked or self.leases or any(name in self._asked for name in running):
            return self._least_eviction(target, running)  # leases come and go: nothing to remember
        if (known := self._evictions.get(key)) is None:
            known = self._evictions[key] = self._least_eviction(target, running)
        return known

    def _least_eviction(self, target: str, running: set[str]) -> tuple[str, ...]:
        order = [name for name in self.models if name in running] + sorted(running - self.models.keys())
        movable = [name for name in order if name not in self.models or self.models[name].lease_class != "pinned"]
        for count in range(len(movable) + 1):
            for evict in itertools.combinations(reversed(movable), count):
                if self.fits_at_all(self._sum({target, *running}.difference(evict))):
                    return evict
        return tuple(movable)

    def _sum(self, names: set[str]) -> Demand:
        total: Demand = {}
        for name in names:
            for device, amount in self._demand(name).items():
                total[device] = total.get(device, 0) + amount
        return total

    def _demand(self, name: str) -> Demand:
        if name in self.models:
            return self.footprint(name)
        lease: Lease = self.leases[name] if name in self.leases else self._asked[name].lease
        return lease.devices
