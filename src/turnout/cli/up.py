"""``turnout up``: look at what cannot wait, then become the daemon, or start it in the background."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from turnout.cli.embedded import (
    CHAT_SIZE,
    CHAT_SOURCE,
    DEMONSTRATION_SOURCES,
    install_line,
    missing_packages,
    needs_demonstration_model,
)
from turnout.cli.failures import fail
from turnout.cli.options import ConfigOption, JsonOption, given, new_app
from turnout.cli.terminal import hint, is_terminal, say
from turnout.config.daemon_file import read_daemon_file
from turnout.config.document import KeyPath
from turnout.config.loader import LoadedConfig, load_config
from turnout.config.paths import Paths, find_paths
from turnout.core.errors import SetupError

app = new_app()
LEAST_PYTHON = (3, 11)
DAEMON = (sys.executable, "-P", "-m", "turnout.app")
"""``-P``: without it Python would also import modules from the folder that the user happens to be in."""


@app.command()
def up(
    context: typer.Context,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address; beyond loopback it needs keys.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="A named shape of this machine.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it in the background and wait for it.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every request.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Start the daemon."""
    options, paths = given(context, config), find_paths()
    check_python(sys.version_info[:2])
    flags: dict[KeyPath, object] = {("server", "port"): port, ("server", "host"): host, ("profile",): profile}
    flags = {path: value for path, value in flags.items() if value is not None}
    command = [*DAEMON, *daemon_arguments(options.config, flags, verbose=verbose)]
    if detach:
        from turnout.cli.detach import start_detached, tell_running

        if tell_running(json):
            return
        loaded = load_config(paths, file=options.config, flags=flags)
        prepare(loaded, paths)
        start_detached(command, paths, loaded.settings.deadlines.load, json)
        return
    if json:
        raise SetupError("--json is for --detach", hint="in the foreground the daemon talks on stderr")
    loaded = load_config(paths, file=options.config, flags=flags)
    if read_daemon_file(paths.daemon_file) is None:  # otherwise the daemon itself says that one runs already
        prepare(loaded, paths)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(command[0], command)  # noqa: S606  the daemon takes over process and terminal, without us in its memory


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that is too old.

    Raises:
        SetupError: It is.
    """
    if version < LEAST_PYTHON:
        found, least = (".".join(map(str, numbers)) for numbers in (version, LEAST_PYTHON))
        raise SetupError(f"turnout needs Python {least}, this is {found}", hint="`uv tool install turnout` brings one")


def daemon_arguments(config: Path | None, flags: dict[KeyPath, object], *, verbose: bool) -> list[str]:
    """Return the daemon's command line.

    Args:
        config: A configuration file.
        flags: Settings by path.
        verbose: Log every request.
    """
    arguments = [f"--{path[-1]}={value}" for path, value in flags.items()]
    arguments += [f"--config={config.absolute()}"] if config else []
    return arguments + (["--verbose"] if verbose else [])


def prepare(loaded: LoadedConfig, paths: Paths) -> None:
    """Say what is missing, and offer to fetch it where a person can answer.

    Args:
        loaded: The configuration.
        paths: The installation's directories.
    """
    nearby = Path("turnout.yaml")
    if nearby.exists() and (loaded.file is None or not nearby.samefile(loaded.file)):
        say(f"note: ./turnout.yaml is not read; `turnout up --config turnout.yaml` uses it, {paths.config_file} always")
    if missing := missing_packages(loaded.settings):
        say(f"The embedded engine is not installed ({', '.join(missing)}): its models will not start.", "warning")
        hint(f"`{install_line()}` adds it")
        return
    if not needs_demonstration_model(loaded.settings, paths.data_dir) or _has_neighbour(loaded):
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        hint(f"no model yet: `turnout models pull {CHAT_SOURCE}` fetches a small one ({CHAT_SIZE})")
        return
    from turnout.cli.models import ask

    if ask(f"No model yet. Pull the small demonstration model now ({CHAT_SIZE})?", is_yes_default=True):
        _pull_demonstration(paths)


def _has_neighbour(loaded: LoadedConfig) -> bool:
    from turnout.cli.neighbours import running_engines

    return any(engine.models for engine in running_engines(loaded.settings))


def _pull_demonstration(paths: Paths) -> None:
    from turnout.cli.pulling import pull_shown
    from turnout.tiers.local.weights.source import locate, parse_source

    for text in DEMONSTRATION_SOURCES:
        source = parse_source(text)
        try:
            if locate(source, paths.data_dir) is None:
                pull_shown(source, paths.data_dir)
        except SetupError as error:
            fail(error.message, error.hint)
            say("turnout starts without it; `turnout models pull` can be tried again at any time")
            return
