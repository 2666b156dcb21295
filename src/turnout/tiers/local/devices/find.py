"""Which readers this machine needs: those that find something by themselves, or those that ``devices:`` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from turnout.config.schema import DeviceEntry
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, Device, DeviceKind
from turnout.tiers.local.devices.amd import AmdReader
from turnout.tiers.local.devices.base import DeviceReader, Workers, default_headroom
from turnout.tiers.local.devices.named import ChosenReader, ConfiguredReader, SimulatedReader
from turnout.tiers.local.devices.nvml import NvmlReader
from turnout.tiers.local.devices.ram import RamReader

Entries = Sequence[DeviceEntry] | Literal["auto"]


def found_readers(workers: Workers) -> list[DeviceReader]:
    """Return a reader for each kind of device of this machine.

    Args:
        workers: The worker processes that live now.
    """
    nvidia = NvmlReader()
    cards = nvidia.devices()
    others = AmdReader(first_index=1 + max((int(card.id.removeprefix("host/gpu")) for card in cards), default=-1))
    found: list[tuple[DeviceReader, bool]] = [
        (nvidia, bool(cards)),
        (others, bool(others.devices())),
        (RamReader(workers), True),
    ]
    return [reader for reader, is_there in found if is_there]


def choose_readers(entries: Entries, found: Sequence[DeviceReader], workers: Workers) -> list[DeviceReader]:
    """Return the readers that the configuration asks for.

    Args:
        entries: ``auto`` takes what was found; a list replaces it, but for the machine's own memory, which is always
            there.
        found: What this machine has.
        workers: The worker processes that live now.

    Raises:
        SetupError: A device that has to be found is not there.
    """
    if entries == "auto":
        return list(found)
    there = {device.id: (reader, device) for reader in found for device in reader.devices()}
    simulated: list[Device] = []
    configured: list[Device] = []
    chosen: dict[int, tuple[DeviceReader, dict[str, Device]]] = {}
    named = {entry.id for entry in entries}
    for entry in [*entries, *([] if HOST_RAM in named else [DeviceEntry(id=HOST_RAM)])]:
        if entry.kind == "simulated":
            simulated.append(_device(entry, "simulated"))
        elif entry.id in there and entry.kind in ("auto", there[entry.id][1].kind):
            reader, device = there[entry.id]
            chosen.setdefault(id(reader), (reader, {}))[1][entry.id] = _resized(device, entry)
        elif entry.kind == "configured" or (entry.kind == "auto" and entry.vram_gib is not None):
            configured.append(_device(entry, "configured"))
        elif entry in entries:
            raise _not_there(entry, [device for _, device in there.values()])
    readers: list[DeviceReader] = [ChosenReader(reader, devices) for reader, devices in chosen.values()]
    if simulated:
        readers.insert(0, SimulatedReader(simulated, workers))
    if configured:
        readers.insert(0, ConfiguredReader(configured))
    return readers


def _device(entry: DeviceEntry, kind: DeviceKind) -> Device:
    total_bytes = int((entry.vram_gib or 0) * GIB)
    base = Device(
        id=entry.id,
        kind=kind,
        total_bytes=total_bytes,
        headroom_bytes=default_headroom(kind, total_bytes),
        name=f"{kind} device",
    )
    return _resized(base, entry)


def _resized(device: Device, entry: DeviceEntry) -> Device:
    total_bytes = device.total_bytes if entry.vram_gib is None else int(entry.vram_gib * GIB)
    headroom_bytes = min(device.headroom_bytes, total_bytes)
    if entry.headroom_gib is not None:
        headroom_bytes = int(entry.headroom_gib * GIB)
    return Device(
        id=device.id, kind=device.kind, total_bytes=total_bytes, headroom_bytes=headroom_bytes, name=device.name
    )


def _not_there(entry: DeviceEntry, there: Sequence[Device]) -> SetupError:
    names = ", ".join(f"{device.id} ({device.kind})" for device in there)
    kind = "" if entry.kind == "auto" else f"{entry.kind} "
    return SetupError(
        f"there is no {kind}device {entry.id!r} on this machine",
        hint=f"found: {names or 'nothing'}; `kind: configured` with a vram_gib takes your word for it",
    )
