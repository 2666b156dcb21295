"""Prometheus metrics, fed by events alone."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from turnout.core import errors
from turnout.core.events import BreakerChanged, Event, RequestFinished, TracesDegraded, WorkerChanged, WorkerCrashed
from turnout.core.words import Trace
from turnout.dispatch.record import BREAKER_OPEN, TARGET_GONE

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS_BUCKETS = (0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CODES = {"", *(kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
               and hasattr(kind, "code")), BREAKER_OPEN, TARGET_GONE}  # fmt: skip
"""Codes of our own: an engine's words must not become labels without end."""


class Metrics:
    """The daemon's counters. Labels are targets and outcomes, never a caller's text, so their number stays bounded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._children: dict[tuple[object, ...], Any] = {}
        labels = ("kind", "tier", "target", "outcome")
        self._requests = Counter("turnout_requests", "Requests that ended", labels, registry=self._registry)
        self._attempts = Counter(
            "turnout_attempts", "Tries at a target", ("target", "outcome", "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "turnout_request_duration_seconds", "From arrival to the end of the answer", ("kind", "tier"),
            buckets=SECONDS_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._first_byte = Histogram(
            "turnout_time_to_first_byte_seconds", "From arrival to the first byte of the answer", ("kind", "tier"),
            buckets=SECONDS_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter(
            "turnout_tokens", "Tokens as engines counted them", ("target", "direction"), registry=self._registry
        )
        self._worker = Gauge(
            "turnout_worker_ready",
            "1 while the target's worker is ready",
            ("target", "engine"),
            registry=self._registry,
        )
        self._crashes = Counter("turnout_worker_crashes", "Workers that ended", ("target",), registry=self._registry)
        self._breaker = Gauge("turnout_breaker_open", "1 while held back", ("target",), registry=self._registry)
        self._dropped = Counter("turnout_traces_dropped", "Traces not written", registry=self._registry)

    def hear(self, event: Event) -> None:
        """Count an event."""
        match event:
            case RequestFinished(trace=trace):
                self._count(trace)
            case WorkerChanged():
                self._worker.labels(event.target, event.engine or "none").set(event.state == "ready")
            case WorkerCrashed():
                self._crashes.labels(event.target).inc()
            case BreakerChanged():
                self._breaker.labels(event.target).set(event.is_open)
            case TracesDegraded():
                self._dropped.inc(event.dropped)
            case _:
                pass

    def _count(self, trace: Trace) -> None:
        kind, tier, target = trace.request.kind, trace.tier or "none", trace.served_target or "none"
        self._of(self._requests, kind, tier, target, trace.outcome).inc()
        self._of(self._seconds, kind, tier).observe(trace.total_ms / 1000)
        if trace.first_byte_ms is not None:
            self._of(self._first_byte, kind, tier).observe(trace.first_byte_ms / 1000)
        for attempt in trace.attempts:
            code = attempt.code if attempt.code in CODES else "other"
            self._of(self._attempts, attempt.target, attempt.outcome, code).inc()
        if trace.usage:
            self._of(self._tokens, target, "input").inc(trace.usage.prompt_tokens)
            self._of(self._tokens, target, "output").inc(trace.usage.completion_tokens)

    def _of(self, metric: Any, *labels: str) -> Any:
        """Return a metric's child; the library's own look-up costs ten times as much."""
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)
