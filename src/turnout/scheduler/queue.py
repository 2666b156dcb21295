"""A line of those who wait for the same thing: priorities that age, and turns for callers within each.

Only heads are looked at, whatever the length: everything here is O(1) for each arrival, departure and step of age.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from turnout.scheduler.intent import KnownPlan, Patience

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnout.scheduler.messages import LeaseAsked, RequestArrived

NEVER = float("inf")
OVERDUE = -1
"""The level above ``interactive``: whoever has come here has waited to the bound."""
LOWEST = 2


class Waiter:
    """One request or lease that waits.

    Attributes:
        id: Ticket or lease id.
        fact: As it arrived.
        priority: Index into ``PRIORITIES``.
        lane: Whom fairness counts: caller and priority, so that somebody's urgent request need not stand behind the
            same caller's thousand aged ones.
        since: When it arrived.
        until: When waiting becomes useless, or None.
        level: Where it stands now: its priority, or better with age; -1 is overdue.
        level_since: When it came to stand there.
        line: Where it stands in line.
        short_since: Since when only measured memory is in its way (leases; a model's waiters share their worker's).
    """

    __slots__ = (
        "fact",
        "id",
        "lane",
        "level",
        "level_since",
        "line",
        "patience",
        "plan",
        "priority",
        "short_since",
        "since",
        "until",
    )

    def __init__(
        self,
        id_: str,
        fact: RequestArrived | LeaseAsked,
        *,
        caller: str,
        priority: int,
        since: float,
        until: float | None,
        line: Line,
    ) -> None:
        self.id = id_
        self.fact = fact
        self.lane = (caller, priority)
        self.priority = priority
        self.since = since
        self.until = until
        self.level = priority
        self.level_since = since
        self.line = line
        self.short_since: float | None = None
        self.patience: Patience | None = None
        self.plan: KnownPlan | None = None


class Lane:
    """One caller's waiters on one level, first come first served."""

    __slots__ = ("served_at", "waiters")

    def __init__(self) -> None:
        self.waiters: OrderedDict[str, Waiter] = OrderedDict()
        self.served_at = float("-inf")

    @property
    def head(self) -> Waiter:
        """The first one. A lane in a line is never empty."""
        return next(iter(self.waiters.values()))


class Line:
    """Those who wait for one model in one size, or for room on the same devices.

    Args:
        aging_seconds: After so long on one level a waiter moves up to the next.
    """

    __slots__ = ("_ages_at", "_aging_seconds", "_by_age", "_count", "_is_turn_of_overdue", "_rings", "_standing")

    def __init__(self, aging_seconds: float) -> None:
        self._aging_seconds = aging_seconds
        # One ring of lanes a level, in order of their turns; index 0 is overdue.
        self._rings: list[OrderedDict[tuple[str, int], Lane]] = [OrderedDict() for _ in range(LOWEST + 2)]
        # Who moves up next from each level but overdue. Sorted, because everybody ages at the same pace.
        self._by_age: list[OrderedDict[str, Waiter]] = [OrderedDict() for _ in range(LOWEST + 1)]
        self._ages_at = NEVER  # not after the first one is due to move up
        self._count = 0
        self._is_turn_of_overdue = True
        self._standing: tuple[int, float, float] | None = None  # as last worked out, until somebody comes or goes

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiter]:
        for ring in self._rings:
            for lane in ring.values():
                yield from lane.waiters.values()

    def add(self, waiter: Waiter, now: float) -> None:
        """Let somebody in at the end of its lane."""
        self.age(now)  # or those who should have moved up before would come to stand behind
        self._count += 1
        self._enter(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Let somebody out, wherever it stands."""
        self._count -= 1
        self._leave(waiter)

    def take(self, waiter: Waiter, now: float) -> None:
        """Let a head out that is served: its lane goes to the end of its ring.

        Overdue lanes and the others then take turns: neither a flood of urgent requests nor one of old ones has it all.
        """
        ring = self._rings[waiter.level + 1]
        self._is_turn_of_overdue = waiter.level != OVERDUE
        self.remove(waiter)
        lane = ring.get(waiter.lane)
        if lane is not None:
            lane.served_at = now
            ring.move_to_end(waiter.lane)

    def head(self, lowest: int = LOWEST) -> Waiter | None:
        """Return who is next.

        Args:
            lowest: Whoever stands on a lower level (a greater number) than this is not considered.
        """
        if lowest < OVERDUE:
            return None
        overdue = self._rings[0]
        if overdue and self._is_turn_of_overdue:
            return next(iter(overdue.values())).head
        for ring in self._rings[1 : lowest + 2]:
            if ring:
                return next(iter(ring.values())).head
        return next(iter(overdue.values())).head if overdue else None

    def heads(self, limit: int) -> list[Waiter]:
        """Return up to so many heads of lanes, most urgent first."""
        found: list[Waiter] = []
        for ring in self._rings:
            for lane in ring.values():
                if len(found) == limit:
                    return found
                found.append(lane.head)
        return found

    def callers(self, limit: int) -> list[str]:
        """Return who waits, up to so many lanes of each level."""
        return [lane[0] for ring in self._rings for lane in islice(ring, limit)]

    def level(self) -> int | None:
        """Return the best level that anybody stands on."""
        for index, ring in enumerate(self._rings):
            if ring:
                return index - 1
        return None

    def urgency(self) -> tuple[int, float]:
        """Return the best level, and since when its first lane waits for its turn. Smaller is more urgent.

        Not for an empty line.
        """
        for index, ring in enumerate(self._rings):
            if ring:
                return index - 1, waiting_since(next(iter(ring.values())))
        raise LookupError("nobody waits")

    def urgency_of(self, waiter: Waiter) -> tuple[int, float]:
        """Return the same for one head."""
        return waiter.level, waiting_since(self._rings[waiter.level + 1][waiter.lane])

    def standing(self) -> tuple[int, float, float]:
        """Return the urgency, and when the best level gets better by age alone. Not for an empty line."""
        if self._standing is None:
            level, since = self.urgency()
            better_at = NEVER
            if level != OVERDUE:
                better_at = next(iter(self._by_age[level].values())).level_since + self._aging_seconds
            self._standing = level, since, better_at
        return self._standing

    def age(self, now: float) -> None:
        """Move up whoever has stood on its level for long enough."""
        if now < self._ages_at:
            return  # almost always
        self._ages_at = NEVER
        for level in (2, 1, 0):
            by_age = self._by_age[level]
            while by_age:
                waiter = next(iter(by_age.values()))
                due = waiter.level_since + self._aging_seconds
                if due > now:
                    self._ages_at = min(self._ages_at, due)
                    break
                self._leave(waiter)
                waiter.level = level - 1
                waiter.level_since = due
                self._enter(waiter)

    def in_order(self) -> Iterator[Waiter]:
        """Go through everybody in the likely order of service."""
        for ring in self._rings:
            rest = [list(lane.waiters.values()) for lane in ring.values()]
            turn = 0
            while rest:
                for waiters in rest:
                    yield waiters[turn]
                turn += 1
                rest = [waiters for waiters in rest if len(waiters) > turn]

    def ahead_of(self, waiter: Waiter) -> int:
        """Return how many are likely served before a waiter. O(length): for people, not for decisions."""
        ring = self._rings[waiter.level + 1]
        own = list(ring[waiter.lane].waiters).index(waiter.id)
        better = sum(len(lane.waiters) for ring in self._rings[: waiter.level + 1] for lane in ring.values())
        turns = 0
        is_after = False
        for key, lane in ring.items():
            if key == waiter.lane:
                is_after = True
                turns += own
            else:
                turns += min(len(lane.waiters), own if is_after else own + 1)
        return better + turns

    def _enter(self, waiter: Waiter) -> None:
        self._standing = None
        ring = self._rings[waiter.level + 1]
        lane = ring.get(waiter.lane)
        if lane is None:
            lane = ring[waiter.lane] = Lane()
        lane.waiters[waiter.id] = waiter
        if waiter.level > OVERDUE:
            self._by_age[waiter.level][waiter.id] = waiter
            self._ages_at = min(self._ages_at, waiter.level_since + self._aging_seconds)

    def _leave(self, waiter: Waiter) -> None:
        self._standing = None
        ring = self._rings[waiter.level + 1]
        lane = ring[waiter.lane]
        del lane.waiters[waiter.id]
        if not lane.waiters:
            del ring[waiter.lane]
        if waiter.level > OVERDUE:
            del self._by_age[waiter.level][waiter.id]


def waiting_since(lane: Lane) -> float:
    """Return since when a lane waits for its turn: its head's time on this level, or its last turn."""
    head_since = next(iter(lane.waiters.values())).level_since
    return max(head_since, lane.served_at)
