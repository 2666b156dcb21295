"""NVIDIA cards, by the driver's own library (NVML)."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from turnout.core.memory import Device, DeviceReading
from turnout.tiers.local.devices.base import default_headroom
from turnout.tiers.local.machine import memory_bytes


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as NVML reports it.

    Attributes:
        index: NVML's index.
        name: ``NVIDIA GeForce RTX 5090``.
        total_bytes: Memory of the card.
        free_bytes: Free now.
        driver: Version of the driver.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    driver: str


def find_cards(nvml: Any = None) -> tuple[list[Card], str]:
    """Return the NVIDIA cards of this machine, and why there are none if there are none.

    Args:
        nvml: The library's Python module; the installed one if left out.
    """
    nvml = nvml or _library()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], f"no NVIDIA driver: {error}"
    try:
        return _read_cards(nvml)
    except nvml.NVMLError as error:  # WSL2 and mismatched drivers answer some questions only
        return [], f"the NVIDIA driver does not answer: {error}"
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read_cards(nvml: Any) -> tuple[list[Card], str]:
    driver = nvml.nvmlSystemGetDriverVersion()
    cards, reason = [], "the driver reports no card"
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:  # a lost card, or one that shares the machine's memory and has none of its own
            reason = f"card {index} does not tell its memory: {error}"
            continue
        cards.append(Card(index=index, name=name, total_bytes=memory.total, free_bytes=memory.free, driver=driver))
    return cards, "" if cards else reason


class NvmlReader:
    """Reads every NVIDIA card; ``host/gpu0`` is NVML's card 0.

    Args:
        nvml: The library's Python module; the installed one if left out.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._handles: dict[int, Any] = {}
        self._is_open = False

    def devices(self) -> tuple[Device, ...]:
        """Return the cards."""
        cards, _ = find_cards(self._nvml)
        return tuple(
            Device(
                id=f"host/gpu{card.index}",
                kind="nvidia",
                total_bytes=card.total_bytes,
                headroom_bytes=default_headroom("nvidia", card.total_bytes),
                name=card.name,
            )
            for card in cards
        )

    def read(self) -> tuple[DeviceReading, ...]:
        """Return what is in use on each card that answers."""
        nvml = self._nvml = self._nvml or _library()
        readings = []
        try:
            if not self._is_open:
                nvml.nvmlInit()
                self._is_open = True
            for index in range(nvml.nvmlDeviceGetCount()):
                with contextlib.suppress(nvml.NVMLError):  # the others may answer
                    readings.append(self._read_card(index))
        except nvml.NVMLError:  # the driver was replaced or has crashed: begin anew at the next look
            self._close()
        return tuple(readings)

    def _read_card(self, index: int) -> DeviceReading:
        nvml: Any = self._nvml
        handle = self._handles.get(index)
        if handle is None:
            handle = self._handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError:
            del self._handles[index]
            raise
        return DeviceReading(
            device=f"host/gpu{index}", used_bytes=memory.used, by_process=_by_process(nvml, handle) or None
        )

    def _close(self) -> None:
        nvml: Any = self._nvml
        self._handles.clear()
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def _by_process(nvml: Any, handle: Any) -> dict[int, int]:
    """Return bytes by process; empty where the driver does not say, as under WSL2."""
    found: dict[int, int] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        with contextlib.suppress(nvml.NVMLError):
            for process in ask(handle):
                if process.usedGpuMemory is not None:  # one that computes and draws is in both lists, with one figure
                    found[process.pid] = max(found.get(process.pid, 0), process.usedGpuMemory)
    return found


def model_memory_bytes() -> int:
    """Return what the largest model may take: the largest card's memory, or the machine's where there is no card."""
    cards, _ = find_cards()
    return max((card.total_bytes for card in cards), default=memory_bytes())


def _library() -> Any:
    import pynvml  # the driver's library is looked for only when somebody asks

    return pynvml
