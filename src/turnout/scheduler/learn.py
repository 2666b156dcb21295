"""What experience teaches: how long things take, and how often a model is wanted."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection

MOST_CALLERS = 8
"""Of so many callers it is known how often each wants a model; who has not asked for longest is forgotten first."""
OCCASION_SECONDS = 5.0
"""Requests that come closer together count as parts of one occasion: a thousand at once need one load."""
BURST_SECONDS = 0.25
"""Even where requests are counted, those that come closer together count as parts of one."""
LEAST_AGE_SECONDS = 60.0
"""A rate is not drawn from less time than this: two requests in the first second are no habit."""
KEPT_SAMPLES = 5
"""Of how many last samples the median is taken: one odd load moves nothing, three in a row do."""


class LearntSeconds:
    """How long something takes: the median of the last samples, and the first guess until there is one.

    Args:
        guess: Seconds; less than nothing counts as nothing.
    """

    __slots__ = ("_guess", "_samples")

    def __init__(self, guess: float) -> None:
        self._guess = max(0.0, guess)
        self._samples: deque[float] = deque(maxlen=KEPT_SAMPLES)

    def learn(self, seconds: float) -> None:
        """Take a sample in; what is not positive and finite is no sample."""
        if 0.0 < seconds < math.inf:
            self._samples.append(seconds)

    @property
    def is_learnt(self) -> bool:
        """Whether there was a sample."""
        return bool(self._samples)

    @property
    def seconds(self) -> float:
        """The best guess now, never negative."""
        if not self._samples:
            return self._guess
        ordered = sorted(self._samples)
        return ordered[len(ordered) // 2]


class ArrivalRate:
    """How often something is wanted: a count that decays exponentially, in which a burst counts little more than once.

    Args:
        window_seconds: After so long an arrival weighs 1/e.
        burst_seconds: Arrivals that come closer together count as parts of one.
    """

    __slots__ = ("_at", "_begun", "_burst", "_weight", "_window")

    def __init__(self, window_seconds: float, burst_seconds: float) -> None:
        self._window = window_seconds
        self._burst = burst_seconds
        self._weight = 0.0
        self._at = float("-inf")
        self._begun: float | None = None

    def arrived(self, now: float) -> None:
        """Count one arrival."""
        gap = now - self._at
        if self._begun is None:
            self._begun = now
        self._weight = self._weight * math.exp(-gap / self._window) + min(1.0, gap / self._burst)
        self._at = now

    def uses_within(self, seconds: float, now: float) -> float:
        """Return how often it is likely to be wanted within some seconds."""
        if self._begun is None:
            return 0.0
        weight = self._weight * math.exp((self._at - now) / self._window)
        age = max(LEAST_AGE_SECONDS, now - self._begun)
        return seconds * weight / (self._window * -math.expm1(-age / self._window))


class Interest:
    """Who wants a model how often.

    Args:
        window_seconds: After so long an arrival weighs 1/e.
    """

    __slots__ = ("_occasions", "_rates", "_requests", "_window")

    def __init__(self, window_seconds: float) -> None:
        self._window = window_seconds
        self._occasions = ArrivalRate(window_seconds, OCCASION_SECONDS)
        self._requests = ArrivalRate(window_seconds, BURST_SECONDS)
        self._rates: OrderedDict[str, ArrivalRate] = OrderedDict()

    def arrived(self, caller: str, now: float) -> None:
        """Count one arrival."""
        self._occasions.arrived(now)
        self._requests.arrived(now)
        rate = self._rates.get(caller)
        if rate is None:
            rate = self._rates[caller] = ArrivalRate(self._window, OCCASION_SECONDS)
            if len(self._rates) > MOST_CALLERS:
                self._rates.popitem(last=False)
        else:
            self._rates.move_to_end(caller)
        rate.arrived(now)

    def requests_within(self, seconds: float, now: float) -> float:
        """Return how many requests are likely to come within some seconds."""
        return self._requests.uses_within(seconds, now)

    def occasions_within(self, seconds: float, now: float, but: Collection[str] = ()) -> float:
        """Return on how many occasions it is likely to be wanted within some seconds.

        Args:
            seconds: How far ahead.
            now: Monotonic seconds.
            but: Callers who do not count: whoever waits for another model does not ask for this one meanwhile.
        """
        uses = self._occasions.uses_within(seconds, now)
        if not any(caller in but for caller in self._rates):
            return uses
        total = others = 0.0
        for caller, rate in self._rates.items():
            share = rate.uses_within(1.0, now)
            total += share
            others += 0.0 if caller in but else share
        return uses * others / total if total else 0.0
