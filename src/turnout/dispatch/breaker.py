"""Circuit breakers: a dead target costs one caller a time-out, not every caller. Pure: the time is passed in."""

from __future__ import annotations

import msgspec

FAILURES_TO_OPEN = 3
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0


class Breaker(msgspec.Struct):
    """The recent luck with one target.

    Attributes:
        failures: In a row.
        open_until: Nobody is let through before this time; 0 while closed.
        pause_seconds: The pause that the last opening began with.
        probe: The number of the one call that was let through to find out whether it is well again; 0 for none.
        reason: The last failure.
    """

    failures: int = 0
    open_until: float = 0.0
    pause_seconds: float = 0.0
    probe: int = 0
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self.open_until > 0.0


class Entry(msgspec.Struct, frozen=True):
    """Whether a call may be made.

    Attributes:
        blocked: Why not; empty if it may.
        probe: Its number, if it is the one call that finds out whether the target is well again; else 0.
    """

    blocked: str = ""
    probe: int = 0


class Breakers:
    """One breaker for each target."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._probes = 0

    def enter(self, target: str, now: float) -> Entry:
        """Return whether a target may be tried at this moment.

        After the pause one call is let through; until it has ended, everybody else still has to wait. A caller that
        is let through must report with ``succeeded``, ``failed`` or ``gave_up``.

        Args:
            target: Whom.
            now: Monotonic seconds.
        """
        breaker = self._breakers.get(target)
        if breaker is None or not breaker.is_open:
            return Entry()
        if now < breaker.open_until:
            wait = breaker.open_until - now
            return Entry(f"held back for {wait:.1f} s after {breaker.failures} failures: {breaker.reason}")
        if breaker.probe:
            return Entry(f"one call is finding out whether it is well again after: {breaker.reason}")
        self._probes += 1
        breaker.probe = self._probes
        return Entry(probe=breaker.probe)

    def succeeded(self, target: str) -> bool:
        """Note a good answer; return whether this closed an open breaker."""
        breaker = self._breakers.pop(target, None)
        return breaker is not None and breaker.is_open

    def gave_up(self, target: str, *, probe: int) -> None:
        """Note that a call ended without telling anything about the target (its caller left)."""
        breaker = self._breakers.get(target)
        if breaker is not None and probe and breaker.probe == probe:
            breaker.probe = 0

    def failed(self, target: str, reason: str, now: float, *, at_once: bool, probe: int) -> float:
        """Note a failure; return the pause in seconds if this opened the breaker, else 0.

        Args:
            target: Whom.
            reason: What went wrong, for the people who are held back.
            now: Monotonic seconds.
            at_once: Open on the first failure, since the failure cost a whole time-out.
            probe: As ``enter`` said: calls from before the opening may fail while the probe is still out.
        """
        breaker = self._breakers.setdefault(target, Breaker())
        is_probe = probe != 0 and breaker.probe == probe
        was_open = breaker.is_open and not is_probe
        breaker.failures += 1
        breaker.reason = reason
        if was_open or not (at_once or is_probe or breaker.failures >= FAILURES_TO_OPEN):
            return 0.0
        breaker.probe = 0
        breaker.pause_seconds = min(max(breaker.pause_seconds * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        breaker.open_until = now + breaker.pause_seconds
        return breaker.pause_seconds

    def wait_seconds(self, targets: list[str], now: float) -> float | None:
        """Return how long until the first of these targets may be tried, or None if none is held back."""
        waits = [b.open_until - now for t in targets if (b := self._breakers.get(t)) and b.is_open]
        return max(min(waits), 0.0) if waits else None
