"""What the traces add up to, read back by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from support.samples import a_trace
from turnout.core.events import BreakerChanged, RequestFinished, TracesDegraded, WorkerChanged, WorkerCrashed
from turnout.core.words import Attempt, Usage
from turnout.gateway.metrics import Metrics


def samples(metrics: Metrics) -> dict[frozenset[str], float]:
    """Return every sample by its name and its label values, in no order."""
    text = metrics.render().decode()
    return {
        frozenset((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_attempts_tokens_and_times_are_counted() -> None:
    metrics = Metrics()
    attempts = (
        Attempt(target="local/a", started_ms=0, outcome="broken", code="connect_failed"),
        Attempt(target="local/b", started_ms=1, outcome="answered"),
    )
    for total_ms in (4.0, 5.0, 5.1, 700_000.0):
        metrics.hear(
            RequestFinished(
                trace=a_trace(
                    attempts=attempts,
                    served_target="local/b",
                    tier="local",
                    total_ms=total_ms,
                    first_byte_ms=3.0,
                    usage=Usage(10, 20),
                )
            )
        )
    metrics.hear(RequestFinished(trace=a_trace(outcome="wrong", total_ms=1.0)))
    seen = samples(metrics)

    assert (
        seen[
            frozenset(
                (
                    "turnout_requests_total",
                    "chat",
                    "local",
                    "local/b",
                    "answered",
                )
            )
        ]
        == 4
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_requests_total",
                    "chat",
                    "none",
                    "none",
                    "wrong",
                )
            )
        ]
        == 1
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_attempts_total",
                    "local/a",
                    "broken",
                    "connect_failed",
                )
            )
        ]
        == 4
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_tokens_total",
                    "local/b",
                    "input",
                )
            )
        ]
        == 40
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_tokens_total",
                    "local/b",
                    "output",
                )
            )
        ]
        == 80
    )
    bucket = "turnout_request_duration_seconds_bucket"
    # A bucket holds what is less than or equal to its bound.
    assert [
        seen[
            frozenset(
                (
                    bucket,
                    "chat",
                    "local",
                    le,
                )
            )
        ]
        for le in ("0.005", "0.02", "600.0", "+Inf")
    ] == [2, 3, 3, 4]
    assert (
        seen[
            frozenset(
                (
                    "turnout_request_duration_seconds_count",
                    "chat",
                    "local",
                )
            )
        ]
        == 4
    )
    assert (
        round(
            seen[
                frozenset(
                    (
                        "turnout_request_duration_seconds_sum",
                        "chat",
                        "local",
                    )
                )
            ],
            4,
        )
        == 700.0141
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_time_to_first_byte_seconds_count",
                    "chat",
                    "local",
                )
            )
        ]
        == 4
    )


def test_an_engines_own_words_do_not_become_labels() -> None:
    metrics = Metrics()
    odd = Attempt(target="local/a", started_ms=0, outcome="wrong", code="whatever the engine says")
    metrics.hear(RequestFinished(trace=a_trace(attempts=(odd,))))
    assert (
        samples(metrics)[
            frozenset(
                (
                    "turnout_attempts_total",
                    "local/a",
                    "wrong",
                    "other",
                )
            )
        ]
        == 1
    )


def test_workers_breakers_and_lost_traces_are_seen() -> None:
    metrics = Metrics()
    metrics.hear(WorkerChanged(target="local/a", engine="onnx", state="ready"))
    metrics.hear(WorkerCrashed(target="local/a", exit_code=-9, last_lines=(), restart_in_seconds=0.0))
    metrics.hear(BreakerChanged(target="local/a", is_open=True, reason="x"))
    metrics.hear(TracesDegraded(reason="full", dropped=3))
    seen = samples(metrics)

    assert (
        seen[
            frozenset(
                (
                    "turnout_worker_ready",
                    "local/a",
                    "onnx",
                )
            )
        ]
        == 1
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_worker_crashes_total",
                    "local/a",
                )
            )
        ]
        == 1
    )
    assert (
        seen[
            frozenset(
                (
                    "turnout_breaker_open",
                    "local/a",
                )
            )
        ]
        == 1
    )
    assert seen[frozenset(("turnout_traces_dropped_total",))] == 3
    metrics.hear(WorkerChanged(target="local/a", engine="onnx", state="failed"))
    assert (
        samples(metrics)[
            frozenset(
                (
                    "turnout_worker_ready",
                    "local/a",
                    "onnx",
                )
            )
        ]
        == 0
    )
