"""What a sleeping vLLM really keeps of a card, and what its neighbours use: measured, where the driver says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from turnout.core.memory import HOST_RAM, Demand, Device, DeviceReading
from turnout.tiers.base import LiveWorker
from turnout.tiers.local.devices.base import attribute
from turnout.tiers.local.devices.nvml import NvmlReader
from turnout.tiers.local.machine import parent_of

Read = Callable[[], Sequence[DeviceReading]]


def read_cards() -> Sequence[DeviceReading]:
    """Return what is in use on the NVIDIA cards of this machine; nothing without a driver."""
    try:
        return NvmlReader().read()
    except (ImportError, AttributeError):
        return ()


class Residues:
    """What was measured of a sleeper, for the next time.

    What a model wants may change while it is cold only (``ManagedEngine.models``), so a measurement counts from the
    next start on.

    Args:
        read: Measures the cards; may block.
    """

    def __init__(self, read: Read = read_cards) -> None:
        self._read = read
        self._measured: Demand = {}
        self._settled: Demand = {}

    async def measure(self, devices: Demand, workers: Sequence[LiveWorker]) -> None:
        """Look at what the worker uses now, in a thread.

        Args:
            devices: Those that count.
            workers: The one worker.
        """
        cards = [device for device in devices if device != HOST_RAM]
        if not cards:
            return
        holders = {worker.pid: worker.target for worker in workers}
        for reading in await asyncio.to_thread(self._read):
            if reading.device in cards and (used := sum(attribute(reading, holders, parent_of).values())):
                self._measured[reading.device] = used

    def settle(self) -> None:
        """Let what was measured count from now on."""
        self._settled |= self._measured

    def settled(self) -> Demand:
        """Return what counts."""
        return dict(self._settled)


def used_by_others(device: Device, read: Read = read_cards) -> int:
    """Return what is in use on a card now, before we start there; 0 where nobody can say.

    Args:
        device: The card.
        read: Measures the cards; may block for a moment.
    """
    return next((reading.used_bytes for reading in read() if reading.device == device.id), 0)
