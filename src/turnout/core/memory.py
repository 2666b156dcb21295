"""The right to hold memory: devices, leases, models that want room, and what is measured.

A lease is a message with an id, not an object with methods: a worker of ours, a foreign program and a gateway elsewhere
can all hold one. Bytes are integers; times are seconds since the epoch where they outlive the process (a lease's
expiry), and monotonic seconds where they do not.
"""

from __future__ import annotations

from typing import Literal

import msgspec

GIB = 1 << 30
HOST_RAM = "host/ram"
"""The machine's own memory is a device too: sleeping workers keep their weights there."""

Demand = dict[str, int]
"""Bytes by device id: ``{"host/gpu0": 17179869184}``."""

LeaseClass = Literal["pinned", "resident", "elastic", "job", "voice"]
"""How a holder may be treated: a pinned one is never evicted; a resident one is, when it is idle; an elastic one may be
made smaller as well; a job is never killed while it runs, and waits its turn; voice has a slot of its own."""
LEASE_CLASSES: tuple[LeaseClass, ...] = ("pinned", "resident", "elastic", "job", "voice")

Priority = Literal["interactive", "normal", "background"]
PRIORITIES: tuple[Priority, ...] = ("interactive", "normal", "background")
"""Most urgent first."""

DeviceKind = Literal["nvidia", "amd", "apple", "ram", "simulated", "configured"]


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One memory that holders share.

    Attributes:
        id: ``host/gpu0``, ``host/ram``.
        kind: Who reads it.
        total_bytes: All of it.
        headroom_bytes: Never granted: the desktop, CUDA contexts, surprises.
        name: ``NVIDIA GeForce RTX 5090``, for people.
    """

    id: str
    kind: DeviceKind
    total_bytes: int
    headroom_bytes: int = 0
    name: str = ""


class DeviceReading(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a device at one moment.

    Attributes:
        device: Its id.
        used_bytes: By everybody together.
        by_process: By process id, where the system says (WSL2 does not): None if unknown.
    """

    device: str
    used_bytes: int
    by_process: dict[int, int] | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to hold memory.

    Attributes:
        id: ``lease_…``.
        devices: Bytes on each device.
        lease_class: How the holder may be treated.
        holder: Who, in words: ``local/coder`` for a worker, the caller's own words for a foreign program.
        priority: Of the waiting for it.
        granted_at: Seconds since the epoch.
        expires_at: Seconds since the epoch; None for a worker's, which ends with the worker.
        model: The target that it was granted to, empty for a foreign holder.
        process: The holder's process id on this machine, 0 if unknown.
    """

    id: str
    devices: Demand
    lease_class: LeaseClass
    holder: str
    priority: Priority = "normal"
    granted_at: float = 0.0
    expires_at: float | None = None
    model: str = ""
    process: int = 0


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """One size in which a model can be served; an ordinary model has one.

    Attributes:
        name: ``12b``; empty for the only one.
        devices: Bytes while it is ready.
        load_seconds: First guess at a load from cold; the scheduler learns the real one.
        quality: Larger is better; a request may name the least that will do.
    """

    devices: Demand
    name: str = ""
    load_seconds: float = 10.0
    quality: int = 0


class SleepLevel(msgspec.Struct, frozen=True, kw_only=True):
    """One way of sleeping.

    Attributes:
        level: 1 keeps the weights in the machine's memory, 2 drops them.
        devices: Bytes that stay in use while asleep, on every device (a level-1 sleeper holds ``host/ram``).
        sleep_seconds: First guess.
        wake_seconds: First guess.
    """

    level: int
    devices: Demand
    sleep_seconds: float = 1.0
    wake_seconds: float = 2.0


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model that may be on the devices.

    Attributes:
        name: The target, ``local/coder``.
        sizes: Smallest first.
        preferred_size: Which size is loaded where there is room; an index into ``sizes``.
        lease_class: How it may be treated.
        slots: Requests served at once; None for no limit.
        queue_limit: Requests that may wait for it; more are refused as ``queue_full``.
        sleep_levels: Lightest first; empty if the engine cannot sleep.
        min_residency_seconds: Once ready, so long it stays: while it has work against everybody, while it is idle
            against background work.
        idle_seconds: Unused so long it is put away; None keeps it until somebody needs the room.
        resizes_live: Another size is a switch at run time, not a reload.
        resize_seconds: What such a switch costs.
    """

    name: str
    sizes: tuple[Size, ...]
    preferred_size: int = 0
    lease_class: LeaseClass = "resident"
    slots: int | None = None
    queue_limit: int = 512
    sleep_levels: tuple[SleepLevel, ...] = ()
    min_residency_seconds: float = 10.0
    idle_seconds: float | None = None
    resizes_live: bool = False
    resize_seconds: float = 1.0
