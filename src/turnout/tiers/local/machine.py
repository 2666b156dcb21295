"""What this machine is: memory, disk, processes, and whether it is Linux inside Windows."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path


def memory_bytes() -> int:
    """Return the size of this machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def is_wsl() -> bool:
    """Return whether this Linux runs inside Windows (WSL2)."""
    if sys.platform != "linux":
        return False
    try:
        return "microsoft" in Path("/proc/sys/kernel/osrelease").read_text(encoding="utf-8").lower()
    except OSError:
        return False


def free_disk_bytes(path: Path) -> int:
    """Return the free space where a path is, or would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def describe_system() -> str:
    """Return ``Linux 6.8 x86_64`` or the like, with a note for WSL2."""
    note = " (WSL2)" if is_wsl() else ""
    return f"{platform.system()} {platform.release()} {platform.machine()}{note}"


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if there is none, or the system does not say (proc_pid_stat(5), field 4)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
