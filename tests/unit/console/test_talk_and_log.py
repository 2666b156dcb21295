"""What a person is told, and that a closed or missing terminal is nobody's problem."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.samples import a_trace
from turnout.console.log import describe, log_event, logger, open_log
from turnout.console.talk import Talk
from turnout.core.events import (
    BreakerChanged,
    DaemonReady,
    DaemonStopping,
    DefaultChosen,
    Event,
    JournalFailed,
    LeaseEnded,
    LeaseGranted,
    LoadProgressed,
    OrderOverdue,
    RequestAdmitted,
    RequestFinished,
    RequestTurnedAway,
    RequestWaiting,
    TracesDegraded,
    WorkerChanged,
    WorkerCrashed,
    WorkerOrdered,
)
from turnout.core.memory import Lease

LEASE = Lease(id="lease_1", devices={"host/gpu0": 16 << 30}, lease_class="job", holder="paint")
EVERY: list[Event] = [
    DaemonReady(url="u", seconds=1.0),
    DaemonStopping(running_requests=1, drain_seconds=2.0),
    WorkerChanged(target="t", engine="e", state="failed", detail="d"),
    LoadProgressed(target="t", stage="s", fraction=0.5),
    WorkerCrashed(target="t", exit_code=1, last_lines=("boom",), restart_in_seconds=0.5),
    WorkerCrashed(target="t", exit_code=None, last_lines=(), restart_in_seconds=None),
    BreakerChanged(target="t", is_open=True, reason="r", retry_in_seconds=5),
    BreakerChanged(target="t", is_open=False, reason="r"),
    DefaultChosen(target="t", reason="r"),
    RequestFinished(trace=a_trace()),
    TracesDegraded(reason="r", dropped=2),
    WorkerOrdered(target="t", order="start", devices={"host/gpu0": 1 << 30}),
    WorkerOrdered(target="t", order="stop", reason="room for x"),
    OrderOverdue(target="t", order="stop", seconds=30),
    RequestWaiting(ticket="1", target="t", priority="normal", position=2),
    RequestWaiting(ticket="1", target="t", priority="normal", position=2, expected_wait_seconds=4),
    RequestAdmitted(ticket="1", target="t", waited_seconds=1),
    RequestTurnedAway(ticket="1", target="t", reason="deadline", message="too late", waited_seconds=1),
    LeaseGranted(lease=LEASE, waited_seconds=3),
    LeaseGranted(lease=LEASE, is_adopted=True),
    LeaseEnded(lease=LEASE, reason="released"),
    JournalFailed(reason="no space left"),
]


def told(*events: Event) -> str:
    stream = io.StringIO()
    talk = Talk(stream)
    for event in events:
        talk.hear(event)
    return stream.getvalue()


def test_a_load_is_told_in_steps_and_not_at_every_percent() -> None:
    events = [LoadProgressed(target="local/a", stage="loading", fraction=number / 100) for number in range(100)]
    assert 3 <= len(told(*events).splitlines()) <= 7


def test_failures_are_told_with_their_reason() -> None:
    assert told(WorkerChanged(target="t", engine="e", state="failed", detail="no file")) == "  t is failed: no file\n"
    assert (
        told(WorkerCrashed(target="t", exit_code=1, last_lines=("a", "boom"), restart_in_seconds=0))
        == "  t crashed: boom\n"
    )
    assert told(RequestFinished(trace=a_trace())) == ""
    assert told(DaemonStopping(running_requests=0, drain_seconds=2.0)) == ""


def test_a_terminal_that_is_closed_missing_or_plain_is_nobodys_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stderr", None)
    for talk in (Talk(closed), Talk(plain), Talk()):
        for event in EVERY:
            talk.hear(event)
        talk.say("loading …")


@pytest.fixture
def _quiet_log() -> Iterator[None]:
    """Leave the log as it was."""
    before = (logging.raiseExceptions, logger.level, logger.propagate, list(logger.handlers))
    yield
    for handler in [handler for handler in logger.handlers if handler not in before[3]]:
        logger.removeHandler(handler)
        handler.close()
    logging.raiseExceptions, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.mark.usefixtures("_quiet_log")
def test_every_event_has_a_line_and_it_comes_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "daemon.log"
    open_log(path, is_verbose=True)
    for event in EVERY:
        level, text = describe(event)
        assert text
        assert level >= logging.DEBUG
        log_event(event)
    assert len(path.read_text().splitlines()) == len(EVERY)


@pytest.mark.usefixtures("_quiet_log")
def test_a_log_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    open_log(tmp_path / "logs" / "daemon.log", is_verbose=False)
    log_event(EVERY[0])


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("answered", logging.DEBUG), ("wrong", logging.DEBUG), ("broken", logging.WARNING), ("busy", logging.WARNING)],
)
def test_only_failures_of_ours_are_warnings(outcome: str, level: int) -> None:
    assert describe(RequestFinished(trace=a_trace(outcome=outcome)))[0] == level


def test_who_holds_the_card_and_who_makes_room_is_told() -> None:
    assert told(
        WorkerOrdered(target="local/a", order="stop", reason="room for paint"),
        LeaseGranted(lease=LEASE, waited_seconds=3.2),
        LeaseGranted(lease=LEASE, is_adopted=True),
        LeaseEnded(lease=LEASE, reason="its process is gone"),
        JournalFailed(reason="no space left"),
    ).splitlines() == [
        "  local/a makes room: room for paint",
        "  'paint' holds 16.0 GiB of host/gpu0 (lease_1, waited 3 s)",
        "  'paint' goes on holding 16.0 GiB of host/gpu0 (lease_1)",
        "  'paint' gave back 16.0 GiB of host/gpu0: its process is gone (lease_1)",
        "  leases cannot be written down: no space left",
    ]
    assert (
        told(WorkerOrdered(target="local/a", order="start"), RequestAdmitted(ticket="1", target="t", waited_seconds=1))
        == ""
    )
