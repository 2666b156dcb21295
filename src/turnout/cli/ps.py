"""``turnout ps``: what is served, in which state, what ``auto`` means, and who holds the memory."""

from __future__ import annotations

from typing import Any

import typer

from turnout.cli.daemon import find_daemon
from turnout.cli.lease import put_leases
from turnout.cli.options import ConfigOption, JsonOption, UrlOption, given, new_app
from turnout.cli.terminal import count_of, printable, put, put_json, put_table, spell_bytes, spell_seconds
from turnout.core.memory import GIB

app = new_app()
DEVICE_COLUMNS = ("DEVICE", "TOTAL", "HELD", "IN USE", "FREE", "HOLDERS")
COLUMNS = ("TARGET", "ENGINE", "ROLES", "STATE", "CONTEXT", "SIZE")


@app.command()
def ps(context: typer.Context, json: JsonOption = False, config: ConfigOption = None, url: UrlOption = None) -> None:
    """Show what is served, and what `auto` means."""
    with find_daemon(given(context, config, url)) as daemon:
        status = daemon.status()
    if json:
        put_json(status)
        return
    put_targets(status["targets"])
    put()
    put_devices(status.get("devices", []))
    put_leases(status.get("leases", []))
    put()
    put(printable(spell_auto(status)))
    running = count_of(status["running_requests"], "request")
    put(f"{status['url']} · up {spell_seconds(status['uptime_seconds'])} · {running} running")


def put_targets(targets: list[dict[str, Any]]) -> None:
    """Print a table of targets, and below it why some are not well."""
    if not targets:
        put("no targets yet: `turnout models pull SOURCE` fetches a model, `turnout doctor` looks what fits")
        return
    put_table(COLUMNS, [_row(target) for target in targets], right=("CONTEXT", "SIZE"))
    for target in targets:
        if target["detail"]:
            put(f"  {target['name']} is {target['state']}: {printable(target['detail'])}")


def put_devices(devices: list[dict[str, Any]]) -> None:
    """Print a table of devices and who holds them."""
    if devices:
        put_table(DEVICE_COLUMNS, [_device_row(device) for device in devices], right=DEVICE_COLUMNS[1:5])


def _device_row(device: dict[str, Any]) -> tuple[str, ...]:
    measured = device["measured_bytes"]
    return (
        device["id"],
        _gib(device["total_bytes"]),
        _gib(device["granted_bytes"]),
        "" if measured is None else _gib(measured),
        _gib(device["free_bytes"]),
        ", ".join(f"{entry['holder']} {_gib(entry['bytes'])}" for entry in device["holders"]),
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def spell_auto(status: dict[str, Any]) -> str:
    """Return the line that says what ``auto`` means now, and why."""
    chain = status["auto"]
    if not chain:
        return "auto means nothing yet: there is no chat model"
    reason = status["default"]["reason"] if status["default"]["target"] == chain[0] else ""
    words = f"auto means {chain[0]}" + (f" ({reason})" if reason else "")
    return words + (f", then {', '.join(chain[1:])}" if len(chain) > 1 else "")


def _row(target: dict[str, Any]) -> tuple[str, ...]:
    context_tokens = target["context_tokens"]
    return (
        target["name"],
        target["engine"],
        ", ".join(target["roles"]),
        target["state"],
        f"{context_tokens:,}" if context_tokens else "",
        spell_bytes(target["size_bytes"]),
    )
