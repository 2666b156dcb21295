"""Identifiers sort by time, clocks move as told, and every subscriber hears every event."""

from __future__ import annotations

import time

import msgspec
import pytest

from support.samples import a_trace
from turnout.core import errors
from turnout.core.clock import ManualClock, SystemClock
from turnout.core.errors import TurnoutError
from turnout.core.events import DaemonReady, DaemonStopping, Event, EventBus, RequestFinished
from turnout.core.ids import KEY_PREFIX, new_key, new_request_id


def test_request_ids_sort_by_their_time_and_never_repeat() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_request_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000

    assert len(set(ids)) == 1000
    times = [int(identity.removeprefix("req_")[:12], 16) for identity in ids]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert all(len(identity) == len("req_") + 24 for identity in ids)


def test_keys_have_a_prefix_and_256_random_bits() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith(KEY_PREFIX) and len(key.removeprefix(KEY_PREFIX)) == 43 for key in keys)


def test_a_manual_clock_moves_only_when_told_and_never_back() -> None:
    clock = ManualClock(5.0)
    assert (clock.wall_seconds(), clock.monotonic_seconds()) == (5.0, 5.0)

    clock.advance(2.5)

    assert (clock.wall_seconds(), clock.monotonic_seconds()) == (7.5, 7.5)
    with pytest.raises(ValueError, match=r"-1"):
        clock.advance(-1)


def test_the_system_clock_never_goes_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic_seconds() for _ in range(100)]

    assert readings == sorted(readings)
    assert clock.wall_seconds() > 1_600_000_000


def test_every_subscriber_hears_every_later_event_in_order() -> None:
    bus = EventBus()
    first: list[Event] = []
    second: list[Event] = []
    one, two = DaemonReady(url="u", seconds=1.0), DaemonStopping(running_requests=0, drain_seconds=1.0)

    bus.subscribe(first.append)
    bus.emit(one)
    bus.subscribe(second.append)
    bus.emit(two)
    bus.unsubscribe(first.append)
    bus.emit(one)

    assert first == [one, two]
    assert second == [two, one]


def test_events_and_traces_survive_the_wire() -> None:
    event = RequestFinished(trace=a_trace("req_9", code="x"))
    wire = msgspec.json.encode(event)

    assert msgspec.json.decode(wire)["event"] == "request_finished"
    assert msgspec.json.decode(wire, type=RequestFinished) == event


def all_errors(base: type[TurnoutError] = TurnoutError) -> list[type[TurnoutError]]:
    """Return a class and everything below it."""
    return [base, *(found for child in base.__subclasses__() for found in all_errors(child))]


def test_every_error_is_drawn_in_the_tree_with_its_status() -> None:
    tree = errors.__doc__ or ""
    for error in all_errors():
        if error.__module__ == errors.__name__:
            assert any(error.__name__ in line.split() for line in tree.splitlines()), error.__name__
            assert 400 <= error.status <= 599


def test_only_busy_and_broken_are_worth_a_retry() -> None:
    retryable = {error.__name__ for error in all_errors() if error.retryable}

    assert {"Busy", "Broken", "RateLimited", "NoTarget", "ShuttingDown", "ConnectFailed", "Stalled"} <= retryable
    assert not retryable & {"Wrong", "InvalidRequest", "Refused", "NotSupported", "Unauthorized", "SetupError"}


def test_one_instance_may_have_another_code_and_status_without_changing_its_class() -> None:
    error = errors.Malformed("x", code="answer_too_large", status=599)

    assert (error.code, error.status) == ("answer_too_large", 599)
    assert (errors.Malformed.code, errors.Malformed.status) == ("malformed_answer", 502)
