"""What was thought about a claim in an earlier round, and need not be thought again while nothing has changed."""

from __future__ import annotations

from turnout.core.memory import Demand
from turnout.scheduler.evict import Choice


class Patience:
    """A decision to wait although idle workers could be moved; good as long as the same plan is the best.

    Attributes:
        plan: Who could be moved then.
        drains: Who admits less meanwhile.
        until: When to think again.
        count: How many waited then.
        level: How urgent they were.
    """

    __slots__ = ("count", "drains", "level", "plan", "until")

    def __init__(self, plan: list[Choice], drains: list[str], until: float, count: int, level: int) -> None:
        self.plan = plan
        self.drains = drains
        self.until = until
        self.count = count
        self.level = level


class KnownPlan:
    """A plan that was made for a claim.

    Attributes:
        need: What was lacking.
        plan: Who would be moved, and how.
        among: Who else could have been moved then.
        level: How urgent the claim was.
        until: When to think again: prices change slowly.
    """

    __slots__ = ("among", "level", "need", "plan", "until")

    def __init__(self, need: Demand, plan: list[Choice], among: frozenset[str], level: int, until: float) -> None:
        self.need = need
        self.plan = plan
        self.among = among
        self.level = level
        self.until = until
