"""Starting the daemon in the background: watch its words until it serves, then leave it alone."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import typer

from turnout.cli.daemon import running_daemon
from turnout.cli.failures import BUG, USER_CAN_FIX, fail
from turnout.cli.terminal import put, put_json, say
from turnout.client import ApiError, DaemonNotReachable, Turnout
from turnout.config.daemon_file import DaemonFile
from turnout.config.paths import Paths
from turnout.core.clock import SystemClock

TICK_SECONDS = 0.1
SPARE_SECONDS = 30.0
"""What starting may take beside loading the model."""
LOG_BYTES = 5_000_000
GREETING = "turnout is ready at "
"""The daemon says so once it knows which models there are (console/talk.py)."""
UNDECIDED = ("cold", "loading")


def tell_running(is_json: bool) -> bool:
    """Say where the daemon is if one runs already, and return whether it does.

    Args:
        is_json: Print a JSON document too.
    """
    running = running_daemon()
    if running is None:
        return False
    say(f"turnout is already running at {running.url}")
    _put_result(running, _is_ready(running), is_json)
    return True


def start_detached(command: Sequence[str], paths: Paths, load_seconds: float, is_json: bool) -> None:
    """Start the daemon in a session of its own and wait until it serves.

    Args:
        command: The daemon's command line.
        paths: The installation's directories.
        load_seconds: How long a model may take to load.
        is_json: Print a JSON document at the end.

    Raises:
        typer.Exit: The daemon has ended; its own words were passed on.
    """
    log = paths.log_dir / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output, log.open("rb") as words:
        words.seek(0, 2)
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        start = Start(process, Tail(words))
        try:
            daemon = start.wait(SystemClock().monotonic_seconds() + load_seconds + SPARE_SECONDS)
        except KeyboardInterrupt:
            say(f"\nturnout (pid {process.pid}) goes on starting; `turnout down` stops it")
            raise
    if daemon is None:
        _tell_end(process.returncode, start.has_told_error, log)
    else:
        _put_result(daemon, start.is_ready, is_json)


class Tail:
    """Passes a growing log on to stderr; a traceback is left in the log.

    Args:
        file: The log, where the new part begins.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        self._is_traceback = False
        self.lines: list[str] = []

    def pass_on(self) -> None:
        """Show what is new."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            self._is_traceback = self._is_traceback or "Traceback (most recent call last)" in line
            if not self._is_traceback:
                self.lines.append(line)
                say(line)

    def has(self, beginning: str) -> bool:
        """Return whether a line that was shown begins so."""
        return any(line.startswith(beginning) for line in self.lines)


class Start:
    """One start, watched.

    Args:
        process: The daemon.
        tail: Its words.
    """

    def __init__(self, process: subprocess.Popen[bytes], tail: Tail) -> None:
        self._process = process
        self._tail = tail
        self.is_ready = False

    @property
    def has_told_error(self) -> bool:
        """Whether the daemon itself said why it ended."""
        return self._tail.has("error:")

    def wait(self, deadline: float) -> DaemonFile | None:
        """Return the daemon once its model is ready or has failed; None if it has ended.

        Args:
            deadline: Monotonic seconds after which a model may go on loading without us.
        """
        clock = SystemClock()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TICK_SECONDS)
                self._tail.pass_on()
                return None
            self._tail.pass_on()
            daemon = running_daemon()
            is_late = clock.monotonic_seconds() >= deadline
            if daemon is None or daemon.pid != self._process.pid:
                continue
            if self._tail.has(GREETING) and self._is_decided(daemon):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(TICK_SECONDS)  # it is still saying what to try
                self._tail.pass_on()
                return daemon
            if is_late:
                say("The model is still loading; `turnout ps` shows when it is ready.")
                return daemon

    def _is_decided(self, daemon: DaemonFile) -> bool:
        try:
            with Turnout(daemon.url, daemon.token) as client:
                status = client.status()
        except (DaemonNotReachable, ApiError):
            return False
        self.is_ready = bool(status["is_ready"])
        states = {target["name"]: target["state"] for target in status["targets"]}
        first = next((states[name] for name in status["auto"] if name in states), "failed")
        return self.is_ready or first not in UNDECIDED


def _is_ready(daemon: DaemonFile) -> bool:
    try:
        with Turnout(daemon.url, daemon.token) as client:
            return bool(client.health()["ready"])
    except (DaemonNotReachable, ApiError):
        return False


def _tell_end(code: int, has_told_error: bool, log: Path) -> None:
    if code == USER_CAN_FIX and has_told_error:
        raise typer.Exit(USER_CAN_FIX)
    fail(f"the daemon ended with status {code} while it started", f"its last words are in {log}")
    raise typer.Exit(USER_CAN_FIX if code >= 0 and has_told_error else BUG)


def _put_result(daemon: DaemonFile, is_ready: bool, is_json: bool) -> None:
    facts: dict[str, Any] = {"url": daemon.url, "pid": daemon.pid, "is_ready": is_ready, "version": daemon.version}
    if is_json:
        put_json(facts)
    else:
        put(daemon.url)
        sys.stdout.flush()
