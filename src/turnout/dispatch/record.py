"""The story of one request while it is being lived; at its end it becomes a Trace."""

from __future__ import annotations

from turnout.core.clock import Clock
from turnout.core.errors import TurnoutError
from turnout.core.words import Attempt, Delivered, Outcome, Plan, Request, Step, Target, Trace, Usage
from turnout.dispatch.outcome import outcome_of

MICROSECONDS = 1e6
BREAKER_OPEN = "breaker_open"
TARGET_GONE = "target_gone"


def as_ms(seconds: float) -> float:
    """Return milliseconds, cut to microseconds; ``round`` takes three times as long, and a request needs six."""
    return int(seconds * MICROSECONDS) / 1000


class AttemptRecord:
    """One try, timed step by step.

    Args:
        target: Whom.
        clock: For the steps.
        started_at: Monotonic seconds when the request arrived.
    """

    def __init__(self, target: str, clock: Clock, started_at: float) -> None:
        self.target = target
        self._clock = clock
        self._mark = clock.monotonic_seconds()
        self.started_ms = as_ms(self._mark - started_at)
        self.steps: list[Step] = []
        self.status: int | None = None

    def step(self, name: str) -> None:
        """Close a step that began where the last one ended."""
        now = self._clock.monotonic_seconds()
        self.steps.append(Step(name, as_ms(now - self._mark)))
        self._mark = now

    def end(self, outcome: Outcome, error: TurnoutError | None = None) -> Attempt:
        """Return the finished attempt."""
        return Attempt(
            target=self.target,
            started_ms=self.started_ms,
            outcome=outcome,
            steps=tuple(self.steps),
            code=error.code if error else "",
            error=error.message if error else "",
            source=error.source if error else "",
            status=self.status,
        )


class Record:
    """Collects what happens to a request.

    Args:
        request: Its facts.
        clock: Time.
        key_name: The name of the key that it came with, or empty.
    """

    def __init__(self, request: Request, clock: Clock, key_name: str) -> None:
        self.request = request
        self.key_name = key_name
        self._clock = clock
        self.received_at = clock.wall_seconds()
        self.started_at = clock.monotonic_seconds()
        self.plan: Plan | None = None
        self.attempts: list[Attempt] = []
        self.served: Target | None = None
        self.first_byte_ms: float | None = None
        self.usage: Usage | None = None
        self.delivered: Delivered = "nothing"
        self.tries = 0

    def begin_attempt(self, target: str) -> AttemptRecord:
        """Start timing a try."""
        self.tries += 1
        return AttemptRecord(target, self._clock, self.started_at)

    def skip(self, target: str, code: str, reason: str) -> None:
        """Note a target that was not tried."""
        self.attempts.append(
            Attempt(
                target=target,
                started_ms=self.elapsed_ms(),
                outcome="busy",
                code=code,
                error=reason,
                source="gateway",
            )
        )

    def elapsed_ms(self) -> float:
        """Return milliseconds since the request arrived."""
        return as_ms(self._clock.monotonic_seconds() - self.started_at)

    def first_byte(self) -> None:
        """Note that the answer begins."""
        self.first_byte_ms = self.elapsed_ms()

    def finish(self, error: TurnoutError | None, *, caller_left: bool = False) -> Trace:
        """Return the trace."""
        outcome: Outcome = "caller_left" if caller_left else outcome_of(error) if error else "answered"
        began = self.first_byte_ms is not None
        return Trace(
            id=self.request.id,
            received_at=self.received_at,
            request=self.request,
            plan=self.plan,
            attempts=tuple(self.attempts),
            outcome=outcome,
            http_status=200 if began or error is None else error.status,
            served_target=self.served.name if self.served else "",
            served_model=self.served.model if self.served else "",
            tier=self.served.tier if self.served else "",
            code=error.code if error else "",
            error=error.message if error else "",
            hint=error.hint if error else "",
            first_byte_ms=self.first_byte_ms,
            total_ms=self.elapsed_ms(),
            usage=self.usage,
            delivered=self.delivered,
            key_name=self.key_name,
        )
