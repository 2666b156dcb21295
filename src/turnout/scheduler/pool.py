"""The book: who holds how much of which device, and what is free. Only the book permits; what is measured may delay.

An *account* is what a demand counts against: a device, and, for everybody but voice, also the device's part beside the
room that is set aside for voice. So voice can always have its room, and nobody has to know why.
"""

from __future__ import annotations

from collections.abc import Iterable

from turnout.core.memory import Demand, Device
from turnout.scheduler.messages import Measured

Holder = tuple[str, str]
"""``("model", name)`` or ``("lease", id)``."""


class Pool:
    """The leases on some devices.

    Args:
        devices: What there is.
        reading_seconds: How long a measurement counts.

    Attributes:
        devices: By id.
        set_aside: Room for voice, by device.
        beside: For each device with such room, the account that everybody else counts against as well.
    """

    def __init__(self, devices: Iterable[Device], reading_seconds: float) -> None:
        self.devices = {device.id: device for device in devices}
        self.set_aside: Demand = {}
        self.beside: dict[str, str] = {}
        self._reading_seconds = reading_seconds
        self._limits: Demand = {}
        self._granted: Demand = {}
        self._charges: dict[Holder, Demand] = {}
        self._is_beside: dict[Holder, bool] = {}
        self._readings: dict[str, tuple[Measured, float]] = {}
        self._unmeasured: Demand = {}  # free by the last reading; emptied by whatever may change it
        self.set_voice_room({})

    def capacity(self, device: str) -> int:
        """Return what may be granted of a device in all: total - headroom, or 0 for one that there is not."""
        known = self.devices.get(device)
        return 0 if known is None else max(0, known.total_bytes - known.headroom_bytes)

    def set_voice_room(self, devices: Demand) -> None:
        """Set room aside for voice. What is already granted stays granted."""
        self.set_aside = {device: amount for device, amount in devices.items() if amount > 0}
        self._limits = {device: self.capacity(device) for device in self.devices}
        self.beside = {device: f"{device} beside voice" for device in self.set_aside}
        for device, amount in self.set_aside.items():
            self._limits[self.beside[device]] = self.capacity(device) - amount
        held = [(holder, self._devices_of(holder), self._is_beside[holder]) for holder in self._charges]
        self._granted = dict.fromkeys(self._limits, 0)
        self._charges = {}
        for holder, amounts, is_beside in held:
            self.hold(holder, amounts, is_beside=is_beside)

    def charge(self, devices: Demand, *, is_beside: bool) -> Demand:
        """Return what a demand counts against which account.

        Args:
            devices: Bytes by device.
            is_beside: Whether it has to leave the room for voice alone.
        """
        if not is_beside or not self.set_aside:
            return devices
        return devices | {account: devices[device] for device, account in self.beside.items() if device in devices}

    def hold(self, holder: Holder, devices: Demand, *, is_beside: bool) -> None:
        """Write down what somebody holds from now on, instead of what it held before.

        Args:
            holder: Who.
            devices: Bytes by device.
            is_beside: Whether it has to leave the room for voice alone.
        """
        self.release(holder)
        charge = dict(self.charge(devices, is_beside=is_beside))
        self._charges[holder] = charge
        self._is_beside[holder] = is_beside
        for account, amount in charge.items():
            self._granted[account] = self._granted.get(account, 0) + amount

    def release(self, holder: Holder) -> None:
        """Strike somebody out; nothing happens if it holds nothing."""
        charge = self._charges.pop(holder, None)
        self._unmeasured.clear()
        if charge is not None:
            del self._is_beside[holder]
            for account, amount in charge.items():
                self._granted[account] -= amount

    def held(self, holder: Holder) -> Demand:
        """Return what somebody's lease counts against which account."""
        return self._charges.get(holder, {})

    @property
    def accounts(self) -> Iterable[str]:
        """All accounts."""
        return self._limits

    def granted(self, account: str) -> int:
        """Return the bytes granted on an account."""
        return self._granted.get(account, 0)

    def free_by_book(self, account: str) -> int:
        """Return what the book would allow; below 0 if adopted leases hold more than there is."""
        return self._limits.get(account, 0) - self._granted.get(account, 0)

    def measured(self, reading: Measured, now: float) -> None:
        """Take a measurement in."""
        if reading.device in self.devices:
            self._readings[reading.device] = (reading, now)
            self._unmeasured.pop(reading.device, None)

    def reading(self, device: str, now: float) -> Measured | None:
        """Return the last measurement of a device, if it still counts."""
        found = self._readings.get(device)
        if found is None or now >= found[1] + self._reading_seconds:  # the same sum as in reading_ends_at
            return None
        return found[0]

    def reading_ends_at(self, device: str) -> float | None:
        """Return until when the last measurement of a device counts."""
        found = self._readings.get(device)
        return None if found is None else found[1] + self._reading_seconds

    def free(self, account: str, now: float) -> int:
        """Return what may be granted now: never more than by the book.

        total - headroom - the sum over holders of max(granted, measured) - what nobody with a lease uses.
        """
        reading = self.reading(account, now)
        if reading is None:
            return self.free_by_book(account)
        if account not in self._unmeasured:
            self._unmeasured[account] = self._free_by_reading(reading)
        return self._unmeasured[account]

    def unattributed(self, device: str, now: float) -> int:
        """Return what is used on a device by nobody who holds a lease."""
        reading = self.reading(device, now)
        return 0 if reading is None else self._unattributed(reading)

    def use(self, holder: Holder, account: str, now: float) -> int:
        """Return what somebody counts with: the greater of granted and measured."""
        granted = self._charges.get(holder, {}).get(account, 0)
        reading = self.reading(account, now)
        return granted if reading is None else max(granted, reading.by_holder.get(holder[1], 0))

    def _free_by_reading(self, reading: Measured) -> int:
        device = reading.device
        over = sum(
            max(0, reading.by_holder.get(holder[1], 0) - charge.get(device, 0))
            for holder, charge in self._charges.items()
        )
        return self.free_by_book(device) - over - self._unattributed(reading)

    def _unattributed(self, reading: Measured) -> int:
        known = sum(
            reading.by_holder.get(holder[1], charge.get(reading.device, 0)) for holder, charge in self._charges.items()
        )
        return max(0, reading.used_bytes - known)

    def _devices_of(self, holder: Holder) -> Demand:
        accounts = set(self.beside.values())
        return {account: amount for account, amount in self._charges[holder].items() if account not in accounts}
