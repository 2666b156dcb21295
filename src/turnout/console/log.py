"""Events as log lines: one file for the daemon, turned over at 5 MB. No prompt and no key ever comes here."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from turnout.core.events import (
    BreakerChanged,
    DaemonReady,
    DaemonStopping,
    DefaultChosen,
    Event,
    JobMemoryKept,
    JournalFailed,
    LeaseEnded,
    LeaseGranted,
    LoadProgressed,
    OrderOverdue,
    ProfileStep,
    RequestAdmitted,
    RequestFinished,
    RequestTurnedAway,
    RequestWaiting,
    TracesDegraded,
    WorkerChanged,
    WorkerCrashed,
    WorkerOrdered,
)
from turnout.core.memory import GIB, Demand

LOG_BYTES = 5_000_000
LOG_FILES = 3
logger = logging.getLogger("turnout")


def open_log(path: Path, *, is_verbose: bool) -> None:
    """Send the log to a file; where that cannot be written, to nowhere.

    Args:
        path: The file.
        is_verbose: Also say every request.
    """
    logging.raiseExceptions = False  # a full disk must not reach anybody
    logger.setLevel(logging.DEBUG if is_verbose else logging.INFO)
    logger.propagate = False
    handler: logging.Handler
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, delay=False)
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)


def log_event(event: Event) -> None:
    """Write an event's line."""
    if type(event) is RequestFinished and event.trace.outcome == "answered" and not logger.isEnabledFor(logging.DEBUG):
        return  # the many good ones
    level, text = describe(event)
    if text:
        logger.log(level, "%s", text)


def describe(event: Event) -> tuple[int, str]:
    """Return level and text of an event."""
    match event:
        case RequestFinished(trace=trace):
            level = logging.DEBUG if trace.outcome in ("answered", "wrong") else logging.WARNING
            story = f"{trace.id} {trace.request.kind} {trace.request.selector!r} -> {trace.served_target or 'nobody'}"
            return level, f"{story} {trace.outcome} {trace.http_status} {trace.total_ms:.0f} ms {trace.code}".rstrip()
        case WorkerChanged():
            level = logging.WARNING if event.state in ("failed", "unreachable") else logging.INFO
            return level, f"{event.target} is {event.state}" + (f": {event.detail}" if event.detail else "")
        case WorkerCrashed():
            last = event.last_lines[-1] if event.last_lines else "no output"
            return logging.ERROR, f"{event.target} crashed (exit {event.exit_code}): {last}"
        case BreakerChanged():
            word = f"held back for {event.retry_in_seconds:g} s" if event.is_open else "let through again"
            return logging.WARNING, f"{event.target} is {word}: {event.reason}"
        case DefaultChosen():
            return logging.INFO, f"auto means {event.target}: {event.reason}"
        case DaemonReady():
            return logging.INFO, f"listening on {event.url} after {event.seconds:.2f} s"
        case DaemonStopping():
            return logging.INFO, f"stopping: {event.running_requests} running, up to {event.drain_seconds:g} s for them"
        case TracesDegraded():
            return logging.ERROR, f"traces cannot be written: {event.reason} ({event.dropped} dropped)"
        case (
            LeaseGranted() | LeaseEnded() | JobMemoryKept() | JournalFailed() | OrderOverdue() | WorkerOrdered()
            | RequestWaiting() | RequestAdmitted() | RequestTurnedAway()
        ):  # fmt: skip
            return describe_scheduling(event)
        case ProfileStep():
            return logging.INFO, f"profile {event.profile}: {event.step}"
        case LoadProgressed():
            return logging.DEBUG, f"{event.target}: {event.stage}"
        case _:
            return logging.DEBUG, ""


def describe_scheduling(event: Event) -> tuple[int, str]:
    """Return level and text of what the scheduler did."""
    match event:
        case LeaseGranted(lease=lease):
            verb = "goes on holding" if event.is_adopted else "holds"
            waited = f", waited {event.waited_seconds:.0f} s" if event.waited_seconds >= 1 else ""
            return logging.INFO, f"{lease.holder!r} {verb} {spell_demand(lease.devices)} ({lease.id}{waited})"
        case LeaseEnded(lease=lease):
            return (
                logging.INFO,
                f"{lease.holder!r} gave back {spell_demand(lease.devices)}: {event.reason} ({lease.id})",
            )
        case JobMemoryKept():
            tries = event.tries + 1
            return logging.WARNING, f"{event.holder!r} was asked {tries} times to free its memory; its lease goes on"
        case JournalFailed():
            return logging.ERROR, f"leases cannot be written down: {event.reason}"
        case OrderOverdue():
            return logging.ERROR, f"{event.target}: {event.order} has no end after {event.seconds:.0f} s; it is ended"
        case WorkerOrdered():
            what = " ".join(filter(None, (event.order, event.target, event.size, spell_demand(event.devices))))
            return logging.INFO, what + (f": {event.reason}" if event.reason else "")
        case RequestWaiting():
            expected = event.expected_wait_seconds
            told = "" if expected is None else f", about {expected:.0f} s"
            return logging.DEBUG, f"{event.ticket} waits for {event.target}: place {event.position}{told}"
        case RequestAdmitted():
            return logging.DEBUG, f"{event.ticket} may go to {event.target} after {event.waited_seconds:.2f} s"
        case RequestTurnedAway():
            return logging.INFO, f"{event.ticket} is turned away from {event.target}: {event.message}"
        case _:
            return logging.DEBUG, ""


def spell_demand(devices: Demand) -> str:
    """Return ``16.0 GiB of host/gpu0``."""
    return ", ".join(f"{count / GIB:.1f} GiB of {device}" for device, count in devices.items())
