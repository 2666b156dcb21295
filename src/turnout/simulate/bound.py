"""A number of swaps below which no scheduler can stay, whatever it knows of the future and however fast it is.

**What is relaxed.** Loads, stops and answers take no time, any number of requests is served at once, and the order is
free: of each request it is only asked that its model is in memory at some moment of its window, from its arrival until
its patience ends. Memory is one pool of all devices together, a model counts with its smallest size, one asleep takes
no room, and foreign programs need none either, but may help (below). All this makes life easier, so the bound holds
for the real thing.

**One span.** Let k models be needed at some moments of a span of time, let f(b) be how many of them fit into b bytes,
the smallest first, let C be the memory, and L the largest lease that anybody asks for. Then the least of
j + k - f(C + jL) over j = 0, 1, ... k is a number of swaps that falls into the span; without leases that is k - f(C).
For: some of the k, R, are in memory at the begin of the span. The first grant of each other one falls into it; call N
those whose first grant took only fresh room (room that nobody had to leave: ``memory.py``). At the begin, fresh room, R
and the leases held then fit into C. Fresh room grows only when a lease is given back, by what it had taken: one held
since before the span, or one granted in it on fresh room, only gives back what was taken out of C before. One granted
in the span on made room is itself a swap, and adds at most L. With j of these, R and N together fit into C + jL, so
there are at most f(C + jL) of them, and the other k - f(C + jL) were granted made room: they are swaps, besides the j.

**Many spans.** A span begins at a time s, or just after the unknown moment at which a request u is served, whose model
is then in memory and counts among the k. It ends at a time d, or with the moment at which a request v is served, whose
model counts too. The other models that count are those with a request that arrives at s or later, or after the window
of u is over, and whose window is over by d, or before v arrives. Spans that do not overlap add up: one may end with
the very moment of a request just after which the next begins. The best sum is found going forward in time: F(v) is the
most that must have happened by the moment of v, and G(d) by the time d.

**Pinned models** stay once they are in memory. From the moment at which all of them that are ever asked for must have
been there, C is what they leave; what was asked before that does not count.

A scheduler that also unloads models that are merely idle makes fresh room by that; each such unload may save it one
swap. And the bound counts what was served: a request that was refused needs nothing.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate

from turnout.simulate.traces.arrivals import Arrivals, LeaseShape, Target

OPENS, CLOSES = 0, 1
"""A window that closes just when another opens is not over before: both may be served then, in either order."""


def least_swaps(arrivals: Arrivals, capacity_bytes: int, is_served: Sequence[bool | int] | None = None) -> int:
    """Return a number of swaps that no scheduler can stay below.

    Args:
        arrivals: What was asked.
        capacity_bytes: What may be granted, on all devices together.
        is_served: Whether each arrival was served; all if left out.
    """
    return _Sweep(arrivals, capacity_bytes, is_served).run()


class _Sweep:
    def __init__(self, arrivals: Arrivals, capacity_bytes: int, is_served: Sequence[bool | int] | None) -> None:
        self._arrivals = arrivals
        self._is_served = is_served
        self._sizes = [_smallest_bytes(shape) for shape in arrivals.targets]
        self._capacity, self._begin = capacity_bytes, -1.0
        for index in [index for index, shape in enumerate(arrivals.targets) if _is_pinned(shape)]:
            if (there_at := self._first_end(index)) is not None:
                self._begin = max(self._begin, there_at)
                self._capacity -= self._sizes[index]
            self._sizes[index] = 0
        self._models = [index for index, size in enumerate(self._sizes) if size]
        self._swaps_of = cache(self._forced)
        self._lease = max((shape.bytes for shape in arrivals.targets if isinstance(shape, LeaseShape)), default=0)
        self._times: list[float] = []  # G: times at which it grows, and to what
        self._sums: list[int] = []
        self._latest: list[tuple[float, int]] = []  # of each model: the latest arrival of a window that is over
        # F by model: when the windows of requests with a larger F than any before were over, and that F
        self._over: dict[int, list[float]] = {index: [] for index in self._models}
        self._moments: dict[int, list[int]] = {index: [] for index in self._models}

    def run(self) -> int:
        arrivals, target = self._arrivals, self._arrivals.target
        by_moment = array("l", bytes(array("l").itemsize * len(arrivals)))  # F
        begins: dict[int, float] = {}
        for time, kind, index in _in_time(arrivals):
            model = target[index]
            if not self._sizes[model] or arrivals.at[index] < self._begin or not self._counts(index):
                continue
            if kind == OPENS:
                others = [entry for entry in self._latest if entry[1] != model]
                by_moment[index] = self._best([*others, (time, model)])
                continue
            begin = arrivals.at[index]
            if (before := begins.get(model)) is None or before < begin:
                if before is not None:
                    del self._latest[bisect_left(self._latest, (before, model))]
                begins[model] = begin
                insort(self._latest, (begin, model))
            moments = self._moments[model]
            if not moments or by_moment[index] > moments[-1]:
                self._over[model].append(time)
                moments.append(by_moment[index])
            best = max(self._best(self._latest), by_moment[index])
            if best > (self._sums[-1] if self._sums else 0):
                self._times.append(time)
                self._sums.append(best)
        return self._sums[-1] if self._sums else 0

    def _counts(self, index: int) -> bool:
        return self._is_served is None or bool(self._is_served[index])

    def _first_end(self, model: int) -> float | None:
        """Return when a model must have been in memory for the first time; None if it is never asked for."""
        arrivals = self._arrivals
        ends = (
            arrivals.at[index] + arrivals.patience[index]
            for index, target in enumerate(arrivals.target)
            if target == model and self._counts(index)
        )
        return min(ends, default=None)

    def _best(self, needed: Sequence[tuple[float, int]]) -> int:
        """Return the most swaps that must have happened when a span ends now that needs these models.

        Args:
            needed: The latest possible begin of the span for each model to count, and the model; the latest last.
        """
        best = self._sums[-1] if self._sums else 0
        models = 0
        for begin, model in reversed(needed):
            models |= 1 << model
            if swaps := self._swaps_of(models):  # the span begins at this time
                before = bisect_left(self._times, begin)
                best = max(best, swaps + (self._sums[before - 1] if before else 0))
            for other in self._models:  # the span begins with the moment of a request for another model
                if models >> other & 1 or not (moments := self._moments[other]):
                    continue
                swaps = self._swaps_of(models | 1 << other)
                if swaps and swaps + moments[-1] > best and (count := bisect_left(self._over[other], begin)):
                    best = max(best, swaps + moments[count - 1])
        return best

    def _forced(self, models: int) -> int:
        """Return how many swaps fall into a span that needs these models, as bits."""
        together = list(accumulate(sorted(self._sizes[index] for index in self._models if models >> index & 1)))
        least = count = len(together)
        for leases in range(count + 1 if self._lease else 1):
            fitting = sum(total <= self._capacity + leases * self._lease for total in together)
            least = min(least, leases + count - fitting)
        return least


def _smallest_bytes(shape: Target) -> int:
    return 0 if isinstance(shape, LeaseShape) else min(sum(size.devices.values()) for size in shape.model.sizes)


def _is_pinned(shape: Target) -> bool:
    return not isinstance(shape, LeaseShape) and shape.model.lease_class == "pinned"


def _in_time(arrivals: Arrivals) -> Iterator[tuple[float, int, int]]:
    """Yield the time at which each window opens, and closes, in order."""
    at, patience = arrivals.at, arrivals.patience
    opening = ((moment, OPENS, index) for index, moment in enumerate(at))

    def closing(seconds: float) -> Iterator[tuple[float, int, int]]:
        return ((at[i] + seconds, CLOSES, i) for i, own in enumerate(patience) if own == seconds)

    # Arrivals are in order, so those of one patience also close in order: nothing has to be sorted.
    return heapq.merge(opening, *(closing(seconds) for seconds in sorted(set(patience))))
