"""Where a model of ours is placed, and how it may be treated there: the settings that every managed engine shares."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, Demand, Device, LeaseClass
from turnout.tiers.base import ModelSettings

VOICE_ROLES = frozenset({"transcription", "speech"})


class PlacedSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of a model whose worker is ours."""

    device: Annotated[
        str | None,
        Meta(description="The device whose memory it takes: `host/gpu0`, `host/ram`, or one under `devices`."),
    ] = None
    vram_gib: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="How much it takes there; estimated if left out.")
    ] = None
    vram_share: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="The same as a share of the whole device; counts where `vram_gib` is left out."),
    ] = None
    pinned: Annotated[
        bool, Meta(description="Once loaded it stays, whoever needs the room; `turnout models pin` does the same.")
    ] = False
    idle_seconds: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="Unused so long it is put away: it sleeps where it can, after as long again deeper, and ends at"
            " last. If left out it stays until somebody needs the room. A request's `keep_alive` says otherwise."
        ),
    ] = None
    min_residency_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="Once loaded it keeps its room for so long: with work against everybody, idle against "
            "background work.",
        ),
    ] = 10.0
    queue_limit: Annotated[
        int, Meta(ge=1, description="Requests that may wait for it; more are told to come back later (429).")
    ] = 512


def lease_class_of(settings: PlacedSettings) -> LeaseClass:
    """Return how a model may be treated: pinned if it says so, voice by its roles, else evicted when it is idle."""
    if settings.pinned:
        return "pinned"
    return "voice" if settings.roles and VOICE_ROLES.issuperset(settings.roles) else "resident"


def check_device(settings: PlacedSettings, devices: Sequence[Device]) -> None:
    """Refuse a device that is not there; see ``check_device_name``."""
    check_device_name(settings.device, devices)


def check_device_name(name: str | None, devices: Sequence[Device]) -> None:
    """Refuse a device that is not there.

    Args:
        name: Its id, if one is named.
        devices: What there is; nothing is refused where nobody knows.

    Raises:
        SetupError: With near names.
    """
    ids = [device.id for device in devices]
    if name is None or not ids or name in ids:
        return
    near = difflib.get_close_matches(name, ids, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(ids)}"
    raise SetupError(f"there is no device {name!r}", hint=hint)


def in_memory(settings: PlacedSettings, devices: Sequence[Device], estimate_bytes: int) -> Demand:
    """Return what a model on the processor takes: on ``host/ram`` unless its settings say otherwise.

    Args:
        settings: Of the model.
        devices: What there is.
        estimate_bytes: Counts where the settings do not say how much.
    """
    return _on(settings.device or HOST_RAM, devices, settings, estimate_bytes)


def in_invention(settings: PlacedSettings, devices: Sequence[Device]) -> Demand:
    """Return what a simulated model claims: on the first simulated device, or on one that cannot be measured.

    Where there is neither, nothing: an invented footprint takes no room from real models unless its settings name a
    real device.

    Args:
        settings: Of the model.
        devices: What there is.
    """
    invented = [device.id for device in devices if device.kind in ("simulated", "configured")]
    return _on(settings.device or next(iter(invented), ""), devices, settings, 0)


def _on(device: str, devices: Sequence[Device], settings: PlacedSettings, estimate_bytes: int) -> Demand:
    there = next((known for known in devices if known.id == device), None)
    size = estimate_bytes
    if settings.vram_gib is not None:
        size = int(settings.vram_gib * GIB)
    elif settings.vram_share is not None and there is not None:
        size = int(settings.vram_share * there.total_bytes)
    return {device: size} if device and size and (there or not devices) else {}
