"""``turnout lease``: memory of a device for programs that turnout does not run: training, image generation, a game."""

from __future__ import annotations

import asyncio
import shutil
from typing import Annotated, Any, cast

import typer

from turnout.cli.daemon import find_daemon, locate_daemon
from turnout.cli.lease_command import run_command
from turnout.cli.options import ConfigOption, JsonOption, UrlOption, given, new_app, show_help
from turnout.cli.terminal import put, put_json, put_table, say, spell_seconds, warn
from turnout.client import LeaseNotGranted, LeaseWaiting, Turnout
from turnout.core.clock import SystemClock
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, LEASE_CLASSES, PRIORITIES, Demand, LeaseClass, Priority

app = new_app()
TTL_SECONDS = 60.0
A_DAY_SECONDS = 86_400.0
SAID_EVERY_SECONDS = 15.0
NOT_FOUND = 127
"""What shells say of a program that is not there."""

GibOption = Annotated[float, typer.Option("--gib", metavar="N", help="How much memory, in GiB, on each device.")]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="ID", help="`host/gpu0`; may be repeated. The only card, if there is one."),
]
ClassOption = Annotated[
    str, typer.Option("--class", metavar="CLASS", help=f"How it may be treated: {', '.join(LEASE_CLASSES)}.")
]
PriorityOption = Annotated[
    str, typer.Option("--priority", metavar="PRIORITY", help=f"While it waits: {', '.join(PRIORITIES)}.")
]
WaitOption = Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="Give up after so long; a day.")]
HolderOption = Annotated[str, typer.Option("--holder", metavar="NAME", help="Who it is; the command if left out.")]
CommandArgument = Annotated[
    list[str], typer.Argument(metavar="COMMAND...", help="What to run, with its arguments.", show_default=False)
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `turnout lease ls` shows it.")]


@app.callback(invoke_without_command=True)
def lease(context: typer.Context, config: ConfigOption = None, url: UrlOption = None) -> None:
    """Hold memory of a device for a program of yours; list and release leases."""
    given(context, config, url)
    if context.invoked_subcommand is None:
        show_help(context)


@app.command(context_settings={"allow_interspersed_args": False})  # what follows the command's name is the command's
def run(
    context: typer.Context,
    command: CommandArgument,
    gib: GibOption,
    device: DeviceOption = None,
    lease_class: ClassOption = "job",
    priority: PriorityOption = "normal",
    wait: WaitOption = A_DAY_SECONDS,
    holder: HolderOption = "",
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Run a command while its memory is held; wait for the memory first.

    Ends with the command's exit status. Signals are passed on, and on Linux the command ends with `lease run`, however
    that ends, so that the memory is free again. A restart of the daemon does no harm.
    """
    options = given(context, config, url)
    check_word("--class", lease_class, LEASE_CLASSES)
    check_word("--priority", priority, PRIORITIES)
    if gib <= 0:
        raise SetupError(f"--gib {gib:g} is no size", hint="write --gib 16 for 16 GiB")
    if shutil.which(command[0]) is None:
        say(f"error: there is no program {command[0]!r}")
        raise typer.Exit(NOT_FOUND)
    with find_daemon(options) as daemon:
        demand = dict.fromkeys(device or [the_card(daemon.devices())], int(gib * GIB))
        hold = daemon.lease(
            demand,
            lease_class=cast("LeaseClass", lease_class),
            holder=holder or " ".join(command)[:80],
            priority=cast("Priority", priority),
            ttl_seconds=TTL_SECONDS,
            wait_seconds=wait,
            on_waiting=Waiting(daemon, demand).told,
            on_trouble=warn,
            where=lambda: locate_daemon(options),
        )
        try:
            status = asyncio.run(run_command(hold, command))
        except LeaseNotGranted as error:
            say_holders(error.holders)
            raise
    raise typer.Exit(status)


@app.command("ls")
def list_leases(
    context: typer.Context, json: JsonOption = False, config: ConfigOption = None, url: UrlOption = None
) -> None:
    """List the leases that hold, and those that are waited for."""
    with find_daemon(given(context, config, url)) as daemon:
        known = daemon.leases()
    if json:
        put_json(known)
        return
    if not known["leases"] and not known["waiting"]:
        say("no leases: nobody but turnout's own models holds memory")
    put_leases(known["leases"])
    for waiting in known["waiting"]:
        place = spell_place(waiting["position"], waiting["expected_wait_seconds"])
        put(f"waiting: {waiting['holder']} wants {spell_demand(waiting['devices'])}, {place}")


@app.command()
def release(
    context: typer.Context,
    lease_id: IdArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Take a lease back, whoever holds it. Its program is not ended."""
    with find_daemon(given(context, config, url)) as daemon:
        released = daemon.release_lease(lease_id)
    if json:
        put_json({"released": released})
        return
    say(f"{released['holder']} no longer holds {spell_demand(released['devices'])}")


class Waiting:
    """Says on stderr how the waiting goes: when the place changes, and now and then.

    Args:
        daemon: Knows who holds what.
        demand: What is waited for.
    """

    def __init__(self, daemon: Turnout, demand: Demand) -> None:
        self._daemon = daemon
        self._demand = demand
        self._position = 0
        self._said_at = 0.0

    def told(self, place: LeaseWaiting) -> None:
        """Take the newest place in."""
        is_news = place.position != self._position
        if not is_news and place.waited_seconds - self._said_at < SAID_EVERY_SECONDS:
            return
        if not self._position:
            say_holders([device_holder for device in self._daemon.devices() for device_holder in self._of(device)])
        self._position, self._said_at = place.position, place.waited_seconds
        words = spell_place(place.position, place.expected_wait_seconds)
        say(f"waiting for {spell_demand(self._demand)}: {words}", "dim")

    def _of(self, device: dict[str, Any]) -> list[dict[str, Any]]:
        if device["id"] not in self._demand:
            return []
        return [{**entry, "devices": {device["id"]: entry["bytes"]}} for entry in device["holders"]]


def check_word(option: str, word: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not on a list.

    Raises:
        SetupError: With the list.
    """
    if word not in known:
        raise SetupError(f"{option} {word!r} is not known", hint=f"one of: {', '.join(known)}")


def the_card(devices: list[dict[str, Any]]) -> str:
    """Return the device that is meant where none is named: the only one beside the machine's memory.

    Args:
        devices: As the daemon tells them.

    Raises:
        SetupError: There are several, or none.
    """
    cards = [device["id"] for device in devices if device["id"] != HOST_RAM]
    if len(cards) == 1:
        return str(cards[0])
    if not cards:
        raise SetupError("this machine has no card", hint=f"--device {HOST_RAM} holds the machine's own memory")
    raise SetupError(f"there are {len(cards)} cards", hint=f"name one: --device {' or --device '.join(cards)}")


def put_leases(leases: list[dict[str, Any]]) -> None:
    """Print a table of leases, if there are any."""
    if not leases:
        return
    now = SystemClock().wall_seconds()
    rows = [
        (
            lease["id"],
            lease["holder"],
            lease["class"],
            spell_demand(lease["devices"]),
            spell_seconds(max(0.0, now - lease["granted_at"])),
            spell_seconds(max(0.0, lease["expires_at"] - now)),
        )
        for lease in leases
    ]
    put_table(("LEASE", "HOLDER", "CLASS", "HOLDS", "FOR", "ENDS IN"), rows, right=("FOR", "ENDS IN"))


def say_holders(holders: Any) -> None:
    """Say who holds the memory that is waited for."""
    for holder in holders:
        what = f" and is {holder['phase']}" if holder.get("phase") not in ("", "ready", None) else ""
        say(f"  {holder['holder']} ({holder['class']}) holds {spell_demand(holder['devices'])}{what}")


def spell_demand(devices: Demand) -> str:
    """Return ``16.0 GiB of host/gpu0``."""
    return ", ".join(f"{count / GIB:.1f} GiB of {device}" for device, count in devices.items())


def spell_place(position: int, expected_wait_seconds: float | None) -> str:
    """Return ``place 2 in the line, about 40 s``."""
    about = "" if expected_wait_seconds is None else f", about {spell_seconds(expected_wait_seconds)}"
    return f"place {position} in the line{about}"
