"""What this machine has: cards by NVML, memory, and whether it is Linux inside Windows."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec


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


def find_cards() -> tuple[list[Card], str]:
    """Return the NVIDIA cards of this machine, and why there are none if there are none."""
    import pynvml  # the driver's library is looked for only when somebody asks

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"no NVIDIA driver: {error}"
    try:
        cards = _read_cards(pynvml)
    except pynvml.NVMLError as error:  # WSL2 and mismatched drivers answer some questions only
        return [], f"the NVIDIA driver does not answer: {error}"
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return cards, "" if cards else "the driver reports no card"


def _read_cards(pynvml: Any) -> list[Card]:
    driver = pynvml.nvmlSystemGetDriverVersion()
    cards = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        cards.append(Card(index=index, name=name, total_bytes=memory.total, free_bytes=memory.free, driver=driver))
    return cards


def memory_bytes() -> int:
    """Return the size of this machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def model_memory_bytes() -> int:
    """Return what the largest model may take: the largest card's memory, or the machine's where there is no card."""
    cards, _ = find_cards()
    return max((card.total_bytes for card in cards), default=memory_bytes())


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
