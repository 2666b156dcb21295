"""``turnout down``: stop the daemon and wait until it is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Annotated

import typer

from turnout.cli.daemon import find_daemon, named_url, running_daemon
from turnout.cli.options import ConfigOption, Given, UrlOption, given, new_app
from turnout.cli.terminal import say
from turnout.client import ApiError, DaemonNotReachable, Turnout
from turnout.client.api import check_url
from turnout.config.daemon_file import DaemonFile, process_birth
from turnout.config.paths import find_paths
from turnout.core.clock import SystemClock
from turnout.core.errors import SetupError

app = new_app()
DRAIN_SECONDS = 25.0
"""``server.drain_seconds`` (20) and what the server takes to end answers properly (5)."""
KILL_SECONDS = 5.0
TICK_SECONDS = 0.05


@app.command()
def down(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="End it at once, running answers too.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="How long to wait for its end.")
    ] = DRAIN_SECONDS,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Stop the daemon; running answers may end first."""
    options = given(context, config, url)
    own = running_daemon()
    named = named_url(options)
    if named and (own is None or check_url(named) != own.url):
        _stop_elsewhere(options, force, timeout)
        return
    if own is None:
        say("turnout is not running")
        return
    if force:
        _kill(own)
        return
    with Turnout(own.url, own.token) as daemon:
        try:
            daemon.shutdown()
        except (DaemonNotReachable, ApiError) as error:
            if _is_gone(own):
                say("turnout has ended by itself")
                return
            raise SetupError(f"the daemon does not take orders: {error.message}", hint=_FORCE) from error
    if not wait_until(lambda: _is_gone(own), timeout):
        raise SetupError(f"turnout (pid {own.pid}) is still stopping after {timeout:g} s", hint=_FORCE)
    say(f"turnout at {own.url} has stopped")


_FORCE = "`turnout down --force` ends it at once"


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Return whether something became true before a deadline.

    Args:
        is_so: Asked some times a second.
        seconds: The deadline, from now.
    """
    clock, never = SystemClock(), threading.Event()
    deadline = clock.monotonic_seconds() + seconds
    while not is_so():
        if clock.monotonic_seconds() >= deadline:
            return False
        never.wait(TICK_SECONDS)
    return True


def _is_gone(daemon: DaemonFile) -> bool:
    return process_birth(daemon.pid) != daemon.birth


def _kill(daemon: DaemonFile) -> None:
    if not _is_gone(daemon):
        os.kill(daemon.pid, signal.SIGKILL)
    if not wait_until(lambda: _is_gone(daemon), KILL_SECONDS):
        raise SetupError(f"turnout (pid {daemon.pid}) cannot be ended", hint="is it stopped by a debugger, or on I/O?")
    find_paths().daemon_file.unlink(missing_ok=True)
    say(f"turnout at {daemon.url} was ended by force")


def _stop_elsewhere(options: Given, force: bool, timeout: float) -> None:
    if force:
        raise SetupError("--force ends a daemon of this machine and user only", hint="leave it out to ask politely")
    with find_daemon(options) as daemon:
        daemon.shutdown()
        if not wait_until(lambda: not _answers(daemon), timeout):
            raise SetupError(f"{daemon.url} still answers after {timeout:g} s", hint="it may have long answers to end")
        say(f"turnout at {daemon.url} has stopped")


def _answers(daemon: Turnout) -> bool:
    try:
        daemon.health()
    except DaemonNotReachable:
        return False
    except ApiError:
        return True
    return True
