"""Prometheus metrics, fed by events alone."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from turnout.core.events import BreakerChanged, Event, RequestFinished, TracesDegraded, WorkerChanged, WorkerCrashed
from turnout.gateway.tally import Tally

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The daemon's counters. Labels are targets and outcomes, never a caller's text, so their number stays bounded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._tally = Tally()
        self._registry.register(self._tally)
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
                self._tally.add(trace)
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

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)
