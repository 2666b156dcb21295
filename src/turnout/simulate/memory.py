"""The simulated memory: what is held now, whose room was made by an eviction, and how it went over time."""

from __future__ import annotations

from turnout.core.memory import Demand, Device
from turnout.simulate.timeline import Timeline


class MemoryOverrun(Exception):
    """A scheduler granted more than there is."""


class Memory:
    """The devices of one run.

    Free room is of two kinds: *fresh*, which nobody had to leave, and *made*, which an eviction left behind. A grant
    takes fresh room first. A grant that takes made room needed the eviction: that is what counts as a swap.

    Args:
        devices: What there is.
        timeline: Remembers.
    """

    def __init__(self, devices: tuple[Device, ...], timeline: Timeline) -> None:
        self._capacity = {device.id: device.total_bytes - device.headroom_bytes for device in devices}
        self._free = dict(self._capacity)
        self._made = dict.fromkeys(self._capacity, 0)
        self._timeline = timeline

    def take(self, holder: str, before: Demand, after: Demand, now: float) -> bool:
        """Change what somebody holds to something larger; return whether that took room made by an eviction.

        Args:
            holder: Who.
            before: Bytes held so far.
            after: Bytes held from now on, on each device at least as much.
            now: Seconds.

        Raises:
            MemoryOverrun: There is not so much.
        """
        needed_eviction = False
        for device, amount in after.items():
            more = amount - before.get(device, 0)
            if device not in self._free or more <= 0:
                continue  # the machine's own memory counts where the profile says how much there is
            free = self._free[device]
            if more > free:
                raise MemoryOverrun(f"{holder} was granted {more:,} bytes of {device}, but {free:,} are free")
            self._free[device] = free - more
            fresh = free - self._made[device]
            if more > fresh:
                self._made[device] -= more - fresh
                needed_eviction = True
        self._timeline.change(holder, sum(after.values()), now)
        return needed_eviction

    def give_back(self, holder: str, before: Demand, after: Demand, now: float, *, is_eviction: bool) -> None:
        """Change what somebody holds to something smaller.

        Args:
            holder: Who.
            before: Bytes held so far.
            after: Bytes held from now on.
            now: Seconds.
            is_eviction: Whether that was ordered to make room.
        """
        for device, amount in before.items():
            less = amount - after.get(device, 0)
            if device not in self._free or less <= 0:
                continue
            self._free[device] += less
            if is_eviction:
                self._made[device] += less
        self._timeline.change(holder, sum(after.values()), now)
