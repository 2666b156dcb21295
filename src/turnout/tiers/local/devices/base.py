"""What a reader of devices is, and how much of a device is never granted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from turnout.core.memory import GIB, Demand, Device, DeviceKind, DeviceReading
from turnout.tiers.base import LiveWorker

MIB = 1 << 20
Workers = Callable[[], Iterable[LiveWorker]]
"""Returns the worker processes that live now; called from the thread that reads."""


class DeviceReader(Protocol):
    """Reads one kind of device. Never raises: what cannot be read is left out."""

    def devices(self) -> tuple[Device, ...]:
        """Return what there is; asked once, at the start."""
        ...

    def read(self) -> tuple[DeviceReading, ...]:
        """Return what is in use now; nothing for a device that nobody can measure. May block."""
        ...


def default_headroom(kind: DeviceKind, total_bytes: int) -> int:
    """Return how much of a device is never granted where nobody says.

    A sixteenth of a card, at least 512 MiB: a driver's context takes a few hundred MiB for each process beside what its
    model asks for, a desktop about as much, and allocators leave gaps (vLLM keeps off 8 to 10 % of a card by itself).
    An eighth of the machine's memory, at most 4 GiB: the system, the daemon and everybody's page cache. Nothing of a
    simulated device: what is invented has no surprises.

    Args:
        kind: Of the device.
        total_bytes: All of it.
    """
    if kind == "simulated":
        return 0
    if kind == "ram":
        return min(total_bytes // 8, 4 * GIB)
    return min(max(total_bytes // 16, 512 * MIB), total_bytes)


def attribute(reading: DeviceReading, holders: Mapping[int, str], parent_of: Callable[[int], int]) -> Demand:
    """Return how much of a reading belongs to whom, as far as the system says which process uses what.

    Args:
        reading: With or without processes.
        holders: Model or lease by the id of its process.
        parent_of: Returns the parent of a process, 0 if there is none: a holder's children count as the holder.
    """
    used: Demand = {}
    for process, amount in (reading.by_process or {}).items():
        holder = _holder_of(process, holders, parent_of)
        if holder:
            used[holder] = used.get(holder, 0) + amount
    return used


def _holder_of(process: int, holders: Mapping[int, str], parent_of: Callable[[int], int]) -> str:
    seen = 0
    while process > 1 and seen < 64:  # a family as deep as that is a loop of reused ids
        if process in holders:
            return holders[process]
        process, seen = parent_of(process), seen + 1
    return ""
