"""The part of the check-up that looks at the devices: what a daemon would share, or what the running one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from turnout.cli.findings import Finding
from turnout.cli.terminal import count_of
from turnout.config.schema import Settings
from turnout.core.errors import SetupError
from turnout.core.memory import GIB
from turnout.tiers.local.devices.find import choose_readers, found_readers

FULL = 0.02
"""Free of what can be granted: with less, nothing more is going to fit."""


def examine_devices(settings: Settings | None, status: dict[str, Any] | None) -> Iterator[Finding]:
    """Return what is to be said about the devices.

    Args:
        settings: The configuration, if it can be read.
        status: What the running daemon says of itself, if there is one.
    """
    if status is not None and "devices" in status:
        yield from map(_shared, status["devices"])
        if leases := status.get("leases"):
            words = ", ".join(f"{lease['holder']} ({lease['class']})" for lease in leases)
            yield Finding("ok", "leases", f"{count_of(len(leases), 'lease')}: {words}", "`turnout lease ls`")
    elif settings is not None:
        yield from _configured(settings)


def _shared(device: dict[str, Any]) -> Finding:
    room = device["total_bytes"] - device["headroom_bytes"]
    words = f"{_gib(device['free_bytes'])} of {_gib(room)} free to grant"
    if device["holders"]:
        words += "; " + ", ".join(f"{entry['holder']} holds {_gib(entry['bytes'])}" for entry in device["holders"])
    strangers = device["unattributed_bytes"]
    if strangers > room // 4 and device["kind"] != "ram":
        mend = "`turnout lease run --gib N -- COMMAND` lets turnout know of a program, so that it makes room"
        return Finding("warn", device["id"], f"{words}; {_gib(strangers)} are used by programs without a lease", mend)
    mend = "" if device["free_bytes"] > FULL * room else "idle models make room when somebody needs it"
    return Finding("ok", device["id"], words, mend)


def _configured(settings: Settings) -> Iterator[Finding]:
    try:
        readers = choose_readers(settings.devices, found_readers(tuple), tuple)
    except SetupError as error:
        yield Finding("fail", "devices", error.message, error.hint)
        return
    for reader in readers:
        for device in reader.devices():
            words = f"{_gib(device.total_bytes)} ({device.kind}), {_gib(device.headroom_bytes)} kept free"
            yield Finding("ok", device.id, words)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
