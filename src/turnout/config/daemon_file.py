"""How the CLI finds the running daemon: a small file with its address, its process and a token for this user."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from turnout.config.files import write_privately
from turnout.core.errors import UNREADABLE_JSON


class DaemonFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content.

    Attributes:
        url: Where the daemon listens.
        pid: Its process.
        birth: When the process was born, in the kernel's own count, so that a reused pid is not mistaken for it.
        token: Opens the operator's API for this user.
        version: Of turnout.
        started_at: Seconds since the epoch.
    """

    url: str
    pid: int
    birth: str
    token: str
    version: str
    started_at: float


def write_daemon_file(path: Path, content: DaemonFile) -> None:
    """Write the file.

    Raises:
        SetupError: It cannot be written.
    """
    write_privately(path, msgspec.json.encode(content))


def read_daemon_file(path: Path) -> DaemonFile | None:
    """Return what the file says, or None if there is none, it is unreadable, or its process is gone."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=DaemonFile)
    except (OSError, *UNREADABLE_JSON):
        return None
    birth = process_birth(content.pid)
    return content if birth and birth == content.birth else None


def process_birth(pid: int) -> str:
    """Return a text that tells a process from a later one with the same pid; empty if it is gone.

    On Linux it is the start time in ``/proc/PID/stat`` (proc(5), field 22); elsewhere only life itself is known.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _lives(pid)
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _lives(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"
