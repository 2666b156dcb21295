"""``turnout ps``: what is served, how long it stays in memory, what ``auto`` means, and who holds the memory.

The columns that Ollama's users know (NAME, SIZE, PROCESSOR, UNTIL), and what more there is to know. On a narrow
terminal those that matter less are left out, and so are columns with nothing in them.
"""

from __future__ import annotations

import sys
import threading
from typing import Annotated, Any

import typer

from turnout.cli.daemon import find_daemon
from turnout.cli.lease import put_leases
from turnout.cli.options import ConfigOption, JsonOption, UrlOption, given, new_app
from turnout.cli.terminal import (
    count_of,
    is_terminal,
    printable,
    put,
    put_json,
    put_table,
    spell_bytes,
    spell_seconds,
    terminal_columns,
)
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM

app = new_app()
NOTHING = "no targets yet: `turnout models pull SOURCE` fetches a model, `turnout doctor` looks what fits"
DEVICE_COLUMNS = ("DEVICE", "TOTAL", "HELD", "IN USE", "FREE", "HOLDERS")
TARGET_COLUMNS = ("TARGET", "ENGINE", "ROLES", "STATE", "CONTEXT", "SIZE")
COLUMNS = ("NAME", "TIER", "SIZE", "PROCESSOR", "STATE", "RESERVED", "MEASURED", "QUEUE", "UNTIL")
RIGHT = ("SIZE", "RESERVED", "MEASURED", "QUEUE")
SPARE = ("TIER", "SIZE", "PROCESSOR", "MEASURED", "QUEUE")
"""Left out on a narrow terminal, the first one first; ``--json`` has everything."""
GAP = 2
WATCH_SECONDS = 1.0
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
_NEVER = threading.Event()


@app.command()
def ps(
    context: typer.Context,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every second, until Ctrl-C.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Show what is served, how long it stays loaded, and who holds the memory."""
    if json and watch:
        raise SetupError("--json and --watch exclude each other", hint="give one of them")
    with find_daemon(given(context, config, url)) as daemon:
        if json:
            put_json(daemon.status())
            return
        put_status(daemon.status())
        while watch:
            sys.stdout.flush()
            _NEVER.wait(WATCH_SECONDS)
            status = daemon.status()
            put(CLEAR if is_terminal(sys.stdout) else "")
            put_status(status)


def put_status(status: dict[str, Any]) -> None:
    """Print everything.

    Args:
        status: Of the daemon.
    """
    put_workers(status["targets"], terminal_columns())
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
        put(NOTHING)
        return
    put_table(TARGET_COLUMNS, [_row(target) for target in targets], right=("CONTEXT", "SIZE"))
    put_reasons(targets)


def put_workers(targets: list[dict[str, Any]], width: int) -> None:
    """Print a table of targets and their workers, and below it why some are not well.

    Args:
        targets: Of the daemon's status.
        width: Characters of a line.
    """
    if not targets:
        put(NOTHING)
        return
    rows = [_cells(target) for target in targets]
    columns = [column for column in COLUMNS if any(row[column] for row in rows)]
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for column in SPARE:
        if sum(widths[column] + GAP for column in columns) - GAP > width and column in columns:
            columns.remove(column)
    put_table(columns, [[row[column] for column in columns] for row in rows], right=RIGHT)
    put_reasons(targets)


def put_reasons(targets: list[dict[str, Any]]) -> None:
    """Print why some targets are not well."""
    for target in targets:
        if target["detail"]:
            put(f"  {target['name']} is {target['state']}: {printable(target['detail'])}")


def spell_until(target: dict[str, Any]) -> str:
    """Return how long a target stays in memory, in words.

    Args:
        target: Of the daemon's status.
    """
    worker = target.get("worker")
    if worker is None:
        return "not managed" if target["tier"] == "local" and target["is_loaded"] else ""
    left = worker["put_away_in_seconds"]
    match worker["phase"]:
        case "cold" | "failed" | "stopping":
            return ""
        case _ if worker["is_unloading"]:
            return "unloading"
        case _ if worker["is_pinned"]:
            return "pinned"
        case _ if left is not None:
            return f"{spell_time(left)} from now"
        case _ if worker["idle_seconds"] == 0:
            return "end of answer"
        case _ if worker["idle_seconds"] is not None:
            return f"{spell_time(worker['idle_seconds'])} after use"
        case "asleep":
            return "asleep"
        case _:
            return "until needed"


def spell_time(seconds: float) -> str:
    """Return a duration in one whole unit: ``4 minutes``."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return count_of(round(seconds / length), unit)
    return count_of(round(seconds), "second")


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


def _cells(target: dict[str, Any]) -> dict[str, str]:
    worker, load = target.get("worker") or {}, target.get("load") or {}
    reserved, measured = worker.get("reserved", {}), worker.get("measured", {})
    counts = worker or load  # what waits for a model of ours waits here, not in its engine
    queue = [f"{counts[key]} {word}" for key, word in (("running", "run"), ("waiting", "wait")) if counts.get(key)]
    if load.get("cache_use"):
        queue.append(f"KV {load['cache_use']:.0%}")
    return {
        "NAME": target["name"],
        "TIER": target["tier"],
        "SIZE": spell_bytes(target["size_bytes"]),
        "PROCESSOR": _processor(reserved),
        "STATE": target["state"],
        "RESERVED": _gib(sum(reserved.values())) if reserved else "",
        "MEASURED": _gib(sum(measured.values())) if measured else "",
        "QUEUE": ", ".join(queue),
        "UNTIL": spell_until(target),
    }


def _processor(reserved: dict[str, int]) -> str:
    total = sum(reserved.values())
    if not total:
        return ""
    on_cpu = round(100 * reserved.get(HOST_RAM, 0) / total)
    if on_cpu in (0, 100):
        return "100% CPU" if on_cpu else "100% GPU"
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


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
