"""What holds a server: a process of this machine, or a container. The protocol, and the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from turnout.tiers.local.machine import parent_of
from turnout.tiers.local.server.spec import ServerSpec

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
OURS_ALONE = ("PYTHONPATH", "COVERAGE_PROCESS_START")
"""Meant for turnout's Python; the server has an environment of its own."""
READ_BYTES = 65536


class End(msgspec.Struct, frozen=True):
    """How a server ended.

    Attributes:
        code: Exit status, or minus the signal.
        reason: What else is known, for people.
    """

    code: int
    reason: str = ""


class StartFailed(Exception):
    """The server cannot be started; the argument says why, for people."""


class Runtime(Protocol):
    """Holds one server. Its methods may block; ``pieces`` and ``wait`` have a thread each."""

    def start(self) -> None:
        """Start the server.

        Raises:
            StartFailed: With the reason.
        """
        ...

    @property
    def port(self) -> int:
        """Where it listens on loopback."""
        ...

    @property
    def pid(self) -> int:
        """The process whose memory counts, if it is no child of the keeper; else 0."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """Yield what it prints, until it ends."""
        ...

    def wait(self) -> End:
        """Return when it has ended."""
        ...

    def stop(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it and everything that it has started, now."""
        ...

    def orphan(self) -> None:
        """The daemon has died without a word: do what is right then, and return."""
        ...


class ServerProcess:
    """A server as a child process.

    It stays in the keeper's process group, which the daemon ends as a whole; on Linux it also dies when the keeper
    does, and what it leaves behind becomes the keeper's to end.

    Args:
        spec: Of the server.
    """

    pid = 0

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        self.port = spec.port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; see ``Runtime.start``."""
        if sys.platform == "linux":
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
        environment = {name: value for name, value in os.environ.items() if name not in OURS_ALONE}
        try:
            self._process = subprocess.Popen(
                self._spec.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment | self._spec.environment,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise StartFailed(f"{self._spec.arguments[0]} cannot be started: {error}") from error

    def pieces(self) -> Iterator[bytes]:
        """Yield what it prints; see ``Runtime.pieces``."""
        output = self._running.stdout
        assert output is not None
        while piece := os.read(output.fileno(), READ_BYTES):
            yield piece

    def wait(self) -> End:
        """Return when it has ended."""
        return End(self._running.wait())

    def stop(self) -> None:
        """Send SIGTERM."""
        self._running.terminate()

    def kill(self) -> None:
        """End it and its descendants, whatever group they are in."""
        self._running.kill()
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def orphan(self) -> None:
        """Nothing of ours survives the daemon."""
        self.kill()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as far as the system says (Linux only)."""
    known = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    parents = {found: parent_of(found) for found in known}
    below, grown = {pid}, True
    while grown:
        fresh = {child for child, parent in parents.items() if parent in below} - below
        below |= fresh
        grown = bool(fresh)
    return sorted(below - {pid})


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
