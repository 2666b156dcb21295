"""Counts of finished requests as plain numbers; Prometheus' own counters take a lock and ten times as long for each.

All counting happens on the event loop, and so does ``collect``: no lock is needed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from turnout.core import errors
from turnout.core.words import Trace
from turnout.dispatch.record import BREAKER_OPEN, TARGET_GONE

SECONDS_BUCKETS = (0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CODES = {"", *(kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
               and hasattr(kind, "code")), BREAKER_OPEN, TARGET_GONE}  # fmt: skip
"""Codes of our own: an engine's words must not become labels without end."""
Labels = tuple[str, ...]


class Times:
    """A histogram of seconds."""

    __slots__ = ("counts", "total_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS_BUCKETS) + 1)
        self.total_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(SECONDS_BUCKETS, seconds)] += 1
        self.total_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return upper bounds with the number of durations up to each, as Prometheus wants them."""
        bounds = [*(repr(float(bound)) for bound in SECONDS_BUCKETS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class Tally(Collector):
    """What the traces add up to."""

    def __init__(self) -> None:
        self._requests: dict[Labels, int] = defaultdict(int)
        self._attempts: dict[Labels, int] = defaultdict(int)
        self._tokens: dict[Labels, int] = defaultdict(int)
        self._durations: dict[Labels, Times] = defaultdict(Times)
        self._first_bytes: dict[Labels, Times] = defaultdict(Times)

    def add(self, trace: Trace) -> None:
        """Count a finished request."""
        kind, tier, target = trace.request.kind, trace.tier or "none", trace.served_target or "none"
        self._requests[kind, tier, target, trace.outcome] += 1
        self._durations[kind, tier].add(trace.total_ms / 1000)
        if trace.first_byte_ms is not None:
            self._first_bytes[kind, tier].add(trace.first_byte_ms / 1000)
        for attempt in trace.attempts:
            code = attempt.code if attempt.code in CODES else "other"
            self._attempts[attempt.target, attempt.outcome, code] += 1
        if trace.usage is not None:
            self._tokens[target, "input"] += trace.usage.prompt_tokens
            self._tokens[target, "output"] += trace.usage.completion_tokens

    def collect(self) -> Iterator[Metric]:
        """Yield everything in Prometheus' form."""
        labels = ["kind", "tier", "target", "outcome"]
        yield _counter("turnout_requests", "Requests that ended", labels, self._requests)
        yield _counter("turnout_attempts", "Tries at a target", ["target", "outcome", "code"], self._attempts)
        yield _counter("turnout_tokens", "Tokens as engines counted them", ["target", "direction"], self._tokens)
        yield _histogram("turnout_request_duration_seconds", "From arrival to the end of the answer", self._durations)
        yield _histogram(
            "turnout_time_to_first_byte_seconds", "From arrival to the first byte of the answer", self._first_bytes
        )


def _counter(name: str, text: str, labels: list[str], counts: dict[Labels, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(list(values), count)
    return family


def _histogram(name: str, text: str, times: dict[Labels, Times]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["kind", "tier"])
    for values, one in times.items():
        family.add_metric(list(values), one.buckets(), one.total_seconds)
    return family
