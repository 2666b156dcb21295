"""The machine's own memory as a device: models on the processor live there, and sleepers keep their weights there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from turnout.core.memory import HOST_RAM, Device, DeviceReading
from turnout.tiers.local.devices.base import Workers, default_headroom
from turnout.tiers.local.machine import memory_bytes

PROC = Path("/proc")


class RamReader:
    """Reads the machine's memory.

    In use is what Linux counts as not available (``MemAvailable``, proc_meminfo(5)): the page cache with the mapped
    weights in it counts as free. Other systems tell the size only.

    Args:
        workers: Whose share is told; everybody else's memory is nobody's.
        root: Where the kernel shows processes.
    """

    def __init__(self, workers: Workers, root: Path = PROC) -> None:
        self._workers = workers
        self._root = root

    def devices(self) -> tuple[Device, ...]:
        """Return the one device; none where the system does not tell the size."""
        total_bytes = self._meminfo().get("MemTotal", 0) or memory_bytes()
        if not total_bytes:
            return ()
        headroom_bytes = default_headroom("ram", total_bytes)
        return (Device(id=HOST_RAM, kind="ram", total_bytes=total_bytes, headroom_bytes=headroom_bytes, name="memory"),)

    def read(self) -> tuple[DeviceReading, ...]:
        """Return what is in use, and what each of our workers holds of it."""
        found = self._meminfo()
        if "MemTotal" not in found or "MemAvailable" not in found:
            return ()
        by_process = {worker.pid: sum(map(self._resident, self._family(worker.pid))) for worker in self._workers()}
        used_bytes = max(0, found["MemTotal"] - found["MemAvailable"])
        return (DeviceReading(device=HOST_RAM, used_bytes=used_bytes, by_process=by_process),)

    def _meminfo(self) -> dict[str, int]:
        return _sizes(self._root / "meminfo")

    def _family(self, pid: int) -> Iterator[int]:
        """Yield a process and all that descend from it: a server's memory is in the children of its keeper."""
        waiting, seen = [pid], {pid}
        while waiting:
            one = waiting.pop()
            yield one
            for listed in (self._root / str(one) / "task").glob("*/children"):
                with contextlib.suppress(OSError):  # it has just ended
                    born = {int(word) for word in listed.read_text(encoding="ascii").split()} - seen
                    waiting += born
                    seen |= born

    def _resident(self, pid: int) -> int:
        """Return a process's memory without mapped files, which are page cache."""
        found = _sizes(self._root / str(pid) / "status")
        return found.get("RssAnon", 0) + found.get("RssShmem", 0)


def _sizes(path: Path) -> dict[str, int]:
    """Return the lines ``Name:  123 kB`` of a file in bytes; empty if there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {name: int(count) * 1024 for name, count in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
