"""Devices as the configuration wants them: simulated ones, ones that nobody can measure, found ones of another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from turnout.core.memory import Device, DeviceReading
from turnout.tiers.local.devices.base import DeviceReader, Workers


class SimulatedReader:
    """Devices that exist in the configuration only; what is in use there is what the workers on them claim.

    Args:
        devices: As configured.
        workers: The worker processes that live now.
    """

    def __init__(self, devices: Sequence[Device], workers: Workers) -> None:
        self._devices = tuple(devices)
        self._workers = workers

    def devices(self) -> tuple[Device, ...]:
        """Return them."""
        return self._devices

    def read(self) -> tuple[DeviceReading, ...]:
        """Return the sum of what the workers claim."""
        workers = tuple(self._workers())
        readings = []
        for device in self._devices:
            by_process = {w.pid: w.devices[device.id] for w in workers if w.devices.get(device.id)}
            readings.append(
                DeviceReading(device=device.id, used_bytes=sum(by_process.values()), by_process=by_process or None)
            )
        return tuple(readings)


class ConfiguredReader:
    """Devices whose size is known and whose use is not.

    Args:
        devices: As configured.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)

    def devices(self) -> tuple[Device, ...]:
        """Return them."""
        return self._devices

    def read(self) -> tuple[DeviceReading, ...]:
        """Return nothing."""
        return ()


class ChosenReader:
    """Some of the devices that another reader finds, with the sizes that the configuration wants.

    Args:
        reader: Finds and measures them.
        chosen: The devices by id, as they shall be.
    """

    def __init__(self, reader: DeviceReader, chosen: Mapping[str, Device]) -> None:
        self._reader = reader
        self._chosen = dict(chosen)

    def devices(self) -> tuple[Device, ...]:
        """Return them."""
        return tuple(self._chosen.values())

    def read(self) -> tuple[DeviceReading, ...]:
        """Return what is in use on them."""
        return tuple(reading for reading in self._reader.read() if reading.device in self._chosen)
