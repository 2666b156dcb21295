"""What the rebuilt schedulers share: counting free memory, and a view that is good enough for a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from turnout.core.memory import Demand, Device, Lease, Model
from turnout.scheduler.messages import View, WaitingView


class Shared:
    """Free memory as the footprints say it, counted by the policy itself.

    Args:
        devices: What there is.
        models: What may be on it.
    """

    def __init__(self, devices: Sequence[Device], models: Sequence[Model]) -> None:
        self.models = {model.name: model for model in models}
        self.leases: dict[str, Lease] = {}
        """Foreign programs that hold memory now."""
        self._free = {device.id: device.total_bytes - device.headroom_bytes for device in devices}
        self._capacity = dict(self._free)

    def footprint(self, name: str) -> Demand:
        """Return what a model needs, in the size that is preferred: these programs know one size."""
        model = self.models[name]
        return model.sizes[model.preferred_size].devices

    def size_name(self, name: str) -> str:
        """Return the name of that size."""
        model = self.models[name]
        return model.sizes[model.preferred_size].name

    def fits(self, demand: Demand) -> bool:
        """Return whether so much is free now."""
        return all(amount <= self._free.get(device, 0) for device, amount in demand.items())

    def fits_at_all(self, demand: Demand) -> bool:
        """Return whether so much is there when nobody else holds anything."""
        return all(amount <= self._capacity.get(device, 0) for device, amount in demand.items())

    def take(self, demand: Demand) -> None:
        """Count memory as held."""
        for device, amount in demand.items():
            self._free[device] -= amount

    def give_back(self, demand: Demand) -> None:
        """Count memory as free again."""
        for device, amount in demand.items():
            self._free[device] += amount

    def position(self, ticket: str, now: float) -> WaitingView | None:  # noqa: ARG002
        """Return None: neither program is asked for it here."""
        return None

    def view(self, now: float) -> View:  # noqa: ARG002
        """Return the leases; the world knows the rest better."""
        return View(devices=(), workers=(), leases=tuple(self.leases.values()), waiting=())
