"""Who listens on a port, where /proc tells: proc_net_tcp(5), and the sockets in /proc/PID/fd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LISTEN = "0A"
"""TCP_LISTEN of the kernel's include/net/tcp_states.h, in hex."""


def owner_of_port(port: int, proc: Path = Path("/proc")) -> str:
    """Return ``NAME (pid N)``, or an empty text where nobody tells.

    Args:
        port: A TCP port of this machine.
        proc: Where the kernel's files are.
    """
    inodes = set(_listening(port, proc))
    if not inodes:
        return ""
    for folder in proc.glob("[0-9]*"):
        if any(f"socket:[{inode}]" in _open_files(folder) for inode in inodes):
            return f"{_name(folder)} (pid {folder.name})"
    return "another user's program"


def _listening(port: int, proc: Path) -> Iterator[str]:
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _open_files(folder: Path) -> set[str]:
    found = set()
    try:
        for entry in (folder / "fd").iterdir():
            found.add(str(entry.readlink()))
    except OSError:
        return found  # another user's, or it has just ended
    return found


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a program"
