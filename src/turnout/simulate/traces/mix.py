"""Who asks for what, where a trace does not say: drawn from the profile's mix by the seed."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from random import Random

from turnout.core.memory import PRIORITIES, Priority
from turnout.simulate.profile import Profile


class Mix:
    """Draws roles, priorities and callers.

    Args:
        profile: Has the mix.
        seed: The same seed, the same draws.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        self._random = Random(f"mix {seed}")  # noqa: S311  a simulation
        self._entries = profile.mix
        self._shares = list(accumulate(entry.share for entry in profile.mix))
        self._by_role = {entry.role: index for index, entry in enumerate(profile.mix)}
        self._priorities = [list(accumulate(entry.priorities.get(p, 0.0) for p in PRIORITIES)) for entry in profile.mix]
        self._callers = [[f"{entry.role} {n + 1}" for n in range(entry.callers)] for entry in profile.mix]

    def draw(self, role: str = "", priority: Priority | None = None, caller: str = "") -> tuple[str, Priority, str]:
        """Return role, priority and caller; what is given stays.

        Always draws three times, so that a value that a trace gives changes nothing about its other rows.

        Args:
            role: Known role.
            priority: Known priority.
            caller: Known caller.
        """
        chance = self._random.random
        index = _pick(self._shares, chance())
        index = self._by_role.get(role, index) if role else index
        level = _pick(self._priorities[index], chance())
        callers = self._callers[index]
        somebody = callers[int(chance() * len(callers))]
        return role or self._entries[index].role, priority or PRIORITIES[level], caller or somebody


def _pick(sums: list[float], chance: float) -> int:
    # A chance just below 1 times the sum can round up to the sum.
    return min(bisect_right(sums, chance * sums[-1]), len(sums) - 1)
