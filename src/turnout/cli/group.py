"""The commands by name, with a line about each; a command's module is imported when it is used."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from turnout.core.errors import SetupError


class Entry(NamedTuple):
    """A command.

    Attributes:
        section: Its place in ``turnout --help``.
        module: In ``turnout.cli``; it has an ``app``.
        summary: Its first line of help (a test compares it).
    """

    section: str
    module: str
    summary: str


COMMANDS = {
    "up": Entry("Daemon", "up", "Start the daemon."),
    "down": Entry("Daemon", "down", "Stop the daemon; running answers may end first."),
    "ps": Entry("Daemon", "ps", "Show what is served, how long it stays loaded, and who holds the memory."),
    "logs": Entry("Daemon", "logs", "Show the log of the daemon or of an engine."),
    "run": Entry("Requests", "run", "Ask a model; without a prompt, talk to it."),
    "why": Entry("Requests", "why", "Tell the story of a request."),
    "models": Entry("Models", "models", "List, pull, load and pin models; choose what `auto` means."),
    "profile": Entry("Models", "profile", "Show profiles, plan the card, switch to another one."),
    "simulate": Entry("Models", "simulate", "Show how a card would bear a workload: swaps, waits, memory."),
    "lease": Entry("Devices", "lease", "Hold memory of a device for a program of yours; list and release leases."),
    "keys": Entry("Setup", "keys", "Create, list and revoke API keys."),
    "config": Entry("Setup", "config", "Check and show the configuration."),
    "doctor": Entry("Setup", "doctor", "Look at this machine and say how to mend what is wrong."),
}


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and summaries without importing any of them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a stand-in that has a summary: this is asked for help and for completion."""
        entry = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.summary, rich_markup_mode=None) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the real command that the arguments begin with.

        Raises:
            SetupError: There is no such command.
        """
        name = args[0]
        if name in COMMANDS:
            return name, load_command(name), args[1:]
        if ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `turnout {near[0]}`?" if near else "`turnout --help` lists the commands"
        raise SetupError(f"there is no command {name!r}", hint=hint)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands by section."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name.ljust(8), entry.summary) for name, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


def load_command(name: str) -> Any:
    """Import a command and return it.

    Args:
        name: One of ``COMMANDS``.
    """
    module = importlib.import_module(f"turnout.cli.{COMMANDS[name].module}")
    command = typer.main.get_command(module.app)
    command.name = name
    return command
