"""AMD cards, by what the amdgpu driver shows in sysfs.

``mem_info_vram_total`` and ``mem_info_vram_used``, in bytes: https://docs.kernel.org/gpu/amdgpu/driver-misc.html.
"""

from __future__ import annotations

import re
from pathlib import Path

from turnout.core.memory import Device, DeviceReading
from turnout.tiers.local.devices.base import default_headroom

SYSFS = Path("/sys/class/drm")


class AmdReader:
    """Reads every AMD card.

    Args:
        first_index: Of the first card's id: cards of another make come first.
        root: Where the kernel lists its cards.
    """

    def __init__(self, first_index: int = 0, root: Path = SYSFS) -> None:
        self._first_index = first_index
        self._root = root
        self._folders: dict[str, Path] = {}

    def devices(self) -> tuple[Device, ...]:
        """Return the cards."""
        found: list[Device] = []
        for folder in self._cards():
            total_bytes = _number(folder / "mem_info_vram_total")
            if total_bytes:
                id_ = f"host/gpu{self._first_index + len(found)}"
                self._folders[id_] = folder
                found.append(
                    Device(
                        id=id_,
                        kind="amd",
                        total_bytes=total_bytes,
                        headroom_bytes=default_headroom("amd", total_bytes),
                        name=_text(folder / "product_name") or "AMD GPU",
                    )
                )
        return tuple(found)

    def read(self) -> tuple[DeviceReading, ...]:
        """Return what is in use on each card; which process uses it is not told."""
        used = {id_: _number(folder / "mem_info_vram_used") for id_, folder in self._folders.items()}
        return tuple(DeviceReading(device=id_, used_bytes=count) for id_, count in used.items() if count is not None)

    def _cards(self) -> list[Path]:
        try:
            names = [path.name for path in self._root.iterdir()]
        except OSError:
            return []
        # `card0-DP-1` and the like are the sockets of a card.
        cards = sorted((name for name in names if re.fullmatch(r"card\d+", name)), key=lambda name: int(name[4:]))
        return [self._root / name / "device" for name in cards]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isascii() and text.isdigit() else None
