"""Options that many commands share. Each may stand before the command or after it: the nearer one counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Read this file instead of the one in the config dir.")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The daemon to talk to; TURNOUT_KEY holds a key, if it wants one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataclass(frozen=True)
class Given:
    """What was given on the command line.

    Attributes:
        config: A configuration file.
        url: A daemon's address.
    """

    config: Path | None = None
    url: str | None = None


def given(context: typer.Context, config: Path | None = None, url: str | None = None) -> Given:
    """Return this command's options, filled up with those given before it, and keep them for commands below.

    Args:
        context: Of the command.
        config: Its own ``--config``.
        url: Its own ``--url``.
    """
    before = context.obj if isinstance(context.obj, Given) else Given()
    merged = Given(config or before.config, url or before.url)
    context.obj = merged
    return merged


def new_app(**settings: Any) -> typer.Typer:
    """Return an app for one command: plain help, which is quick to print and reads well everywhere."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, **settings)


def show_help(context: typer.Context) -> None:
    """Print the help of a group that was called without a command."""
    typer.echo(context.get_help())
