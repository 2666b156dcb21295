"""The machine: its cores, what processes cost on it, and which tools it has. Linux only, from proc(5)."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """A tool is missing; the text ends in a hint."""


def find_tool(name: str, hint: str) -> str:
    """Return the path of a program.

    Args:
        name: Of the program.
        hint: How to install it.

    Raises:
        Missing: It is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"error: {name!r} is not installed\nhint:  {hint}")
    return found


def cores() -> tuple[int, int]:
    """Return the core of everything else and the core of the gateway; the same one where there is one only."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1] if len(usable) > 1 else usable[0]


def tree(root: int) -> list[int]:
    """Return a process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return /proc/PID/stat from the third field on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def birth(pid: int) -> str:
    """Return what tells a process from a later one with the same pid: its start time; empty if it is gone."""
    fields = _stat(pid)
    return "" if not fields or fields[0] in "ZX" else fields[19]


def cpu_seconds(root: int) -> float:
    """Return the processor time that a process tree has used, its ended children among it."""
    ticks = 0
    for pid in tree(root):
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS_PER_SECOND


def busy_seconds() -> float:
    """Return the processor time that everything on this machine has used since it was started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_SECOND  # less idle and iowait


def pss_mib(root: int) -> float:
    """Return the memory of a process tree in MiB: the sum of PSS in smaps_rollup, shared pages by share."""
    return sum(_pss_kib(pid) for pid in tree(root)) / 1024


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def threads(root: int) -> Iterator[int]:
    """Yield every thread of a process tree."""
    for pid in tree(root):
        for entry in Path(f"/proc/{pid}/task").iterdir():
            yield int(entry.name)


def describe() -> str:
    """Return one line about this machine."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    usable = len(os.sched_getaffinity(0))
    return f"{cpu[1] if cpu else platform.machine()}, {usable} cores, {pages:.0f} GiB, Linux {platform.release()}"


def first_line(*command: str) -> str:
    """Return the first line that a command prints, on whichever stream; a question mark if it prints none."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    return next(iter((ran.stdout + ran.stderr).splitlines()), "?").strip()
