"""NVIDIA's library as the readers of devices use it, with two cards and whatever goes wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from turnout.core.memory import GIB


class NvmlError(Exception):
    """What the library raises."""


class ScriptedNvml:
    """NVIDIA's library with two cards, as far as it is asked, and what goes wrong when the test says so."""

    NVMLError = NvmlError

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.opened = self.closed = 0
        self.used = {0: 3 * GIB, 1: GIB}
        self.processes: list[Any] = []

    def _may_fail(self, name: str) -> None:
        if name in self.broken:
            raise NvmlError(f"{name} failed")

    def nvmlInit(self) -> None:  # noqa: N802  the library's own names
        self._may_fail("init")
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed += 1
        self._may_fail("shutdown")

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._may_fail("driver")
        return "590.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._may_fail("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self._may_fail(f"handle {index}")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        self._may_fail(f"memory {handle}")
        return SimpleNamespace(total=32 * GIB, free=32 * GIB - self.used[handle], used=self.used[handle])

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        self._may_fail("processes")
        return self.processes if handle == 0 else []

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return self.nvmlDeviceGetComputeRunningProcesses(handle)
