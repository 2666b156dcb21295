"""What every reader of devices promises, whatever it reads: one suite against each.

A new reader is one more entry of ``BUILDERS``: a healthy world and what breaks it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.scripted_nvml import ScriptedNvml
from turnout.core.memory import GIB, HOST_RAM, Device
from turnout.tiers.base import LiveWorker
from turnout.tiers.local.devices.amd import AmdReader
from turnout.tiers.local.devices.base import DeviceReader
from turnout.tiers.local.devices.named import ChosenReader, ConfiguredReader, SimulatedReader
from turnout.tiers.local.devices.nvml import NvmlReader
from turnout.tiers.local.devices.ram import RamReader

Built = tuple[DeviceReader, Callable[[], object]]
CARD = Device(id="lab/gpu0", kind="simulated", total_bytes=8 * GIB)
WORKER = LiveWorker(target="local/a", pid=7, devices={CARD.id: GIB, HOST_RAM: GIB})


def nvml(root: Path) -> Built:
    library = ScriptedNvml()
    return NvmlReader(library), lambda: library.broken.update({"count", "init"})


def amd(root: Path) -> Built:
    folder = root / "card0" / "device"
    folder.mkdir(parents=True)
    (folder / "mem_info_vram_total").write_text(f"{8 * GIB}\n")
    (folder / "mem_info_vram_used").write_text(f"{GIB}\n")
    return AmdReader(0, root), lambda: shutil.rmtree(root / "card0")


def ram(root: Path) -> Built:
    (root / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    return RamReader(lambda: [WORKER], root), (root / "meminfo").unlink


def simulated(root: Path) -> Built:
    workers = [WORKER]
    return SimulatedReader([CARD], lambda: workers), workers.clear


def configured(root: Path) -> Built:
    return ConfiguredReader([CARD]), lambda: None


def chosen(root: Path) -> Built:
    reader, breaks = nvml(root)
    found = {device.id: device for device in reader.devices()}
    return ChosenReader(reader, {"host/gpu1": found["host/gpu1"]}), breaks


BUILDERS = {
    "nvml": nvml, "amd": amd, "ram": ram, "simulated": simulated, "configured": configured, "chosen": chosen,
}  # fmt: skip


@pytest.fixture(params=BUILDERS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> Built:
    """A reader with what breaks its world."""
    return BUILDERS[request.param](tmp_path)


def test_its_devices_have_ids_of_their_own_and_room_to_grant(built: Built) -> None:
    reader, _ = built
    devices = reader.devices()
    assert devices
    assert len({device.id for device in devices}) == len(devices)
    for device in devices:
        assert 0 <= device.headroom_bytes < device.total_bytes
        assert "/" in device.id
    assert reader.devices() == devices, "asking changes nothing"


def test_it_reads_its_own_devices_only_and_each_once(built: Built) -> None:
    reader, _ = built
    sizes = {device.id: device.total_bytes for device in reader.devices()}
    for _ in range(2):
        readings = reader.read()
        assert len({reading.device for reading in readings}) == len(readings)
        for reading in readings:
            assert 0 <= reading.used_bytes <= sizes[reading.device]
            assert all(count >= 0 for count in (reading.by_process or {}).values())


def test_a_world_that_breaks_leaves_readings_out_and_raises_nothing(built: Built) -> None:
    reader, breaks = built
    reader.devices()
    healthy = {reading.device for reading in reader.read()}
    breaks()
    assert {reading.device for reading in reader.read()} <= healthy
    reader.devices()
