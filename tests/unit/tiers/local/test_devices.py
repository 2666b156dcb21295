"""The memory of a machine: who reads it, what is kept free, and whose it is."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.scripted_nvml import ScriptedNvml
from turnout.config.schema import DeviceEntry
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, Device, DeviceReading
from turnout.tiers.base import LiveWorker
from turnout.tiers.local.devices.amd import AmdReader
from turnout.tiers.local.devices.base import MIB, attribute, default_headroom
from turnout.tiers.local.devices.find import choose_readers, found_readers
from turnout.tiers.local.devices.named import ChosenReader, ConfiguredReader, SimulatedReader
from turnout.tiers.local.devices.nvml import NvmlReader, find_cards
from turnout.tiers.local.devices.ram import RamReader
from turnout.tiers.local.devices.watch import Watch


def test_headroom_grows_with_the_device_and_has_its_bounds() -> None:
    assert default_headroom("nvidia", 32 * GIB) == 2 * GIB
    assert default_headroom("amd", 4 * GIB) == 512 * MIB
    assert default_headroom("nvidia", 256 * MIB) == 256 * MIB
    assert default_headroom("ram", 16 * GIB) == 2 * GIB
    assert default_headroom("ram", 256 * GIB) == 4 * GIB
    assert default_headroom("simulated", 32 * GIB) == 0


@given(st.sampled_from(["nvidia", "amd", "ram", "simulated", "configured"]), st.integers(0, 1 << 45))
def test_headroom_never_exceeds_the_device(kind: Any, total: int) -> None:
    assert 0 <= default_headroom(kind, total) <= total


def test_a_process_counts_as_the_holder_that_is_its_ancestor() -> None:
    parents = {30: 20, 20: 10, 10: 1, 40: 1}
    reading = DeviceReading(device="host/gpu0", used_bytes=100, by_process={30: 7, 10: 5, 40: 11, 99: 13})
    assert attribute(reading, {10: "local/a", 40: "lease_1"}, lambda pid: parents.get(pid, 0)) == {
        "local/a": 12, "lease_1": 11,
    }  # fmt: skip
    assert attribute(reading, {20: "child"}, lambda pid: parents.get(pid, 0)) == {"child": 7}


def test_a_circle_of_parents_and_a_reading_without_processes_belong_to_nobody() -> None:
    reading = DeviceReading(device="host/gpu0", used_bytes=5, by_process={5: 5})
    assert attribute(reading, {9: "x"}, lambda pid: 5) == {}
    assert attribute(DeviceReading(device="host/gpu0", used_bytes=5), {9: "x"}, lambda pid: 0) == {}


def process(pid: int, used: int | None) -> Any:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def test_cards_are_devices_numbered_as_the_driver_numbers_them() -> None:
    nvml = ScriptedNvml()
    devices = NvmlReader(nvml).devices()
    assert [(d.id, d.kind, d.name, d.total_bytes, d.headroom_bytes) for d in devices] == [
        ("host/gpu0", "nvidia", "Card 0", 32 * GIB, 2 * GIB), ("host/gpu1", "nvidia", "Card 1", 32 * GIB, 2 * GIB),
    ]  # fmt: skip
    assert (nvml.opened, nvml.closed) == (1, 1)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (["init"], "no NVIDIA driver: init failed"),
        (["driver"], "does not answer: driver failed"),
        (["count", "shutdown"], "does not answer: count failed"),
        (["memory 0", "handle 1"], "card 1 does not tell its memory: handle 1 failed"),
    ],
)
def test_a_driver_that_does_not_answer_means_no_card_and_a_reason(broken: list[str], words: str) -> None:
    cards, reason = find_cards(ScriptedNvml(*broken))
    assert cards == []
    assert words in reason
    assert NvmlReader(ScriptedNvml(*broken)).devices() == ()


def test_a_card_that_is_lost_leaves_the_others_in_their_places() -> None:
    (device,) = NvmlReader(ScriptedNvml("memory 0")).devices()
    assert device.id == "host/gpu1"


def test_a_reading_says_who_uses_what_where_the_driver_knows() -> None:
    nvml = ScriptedNvml()
    reader = NvmlReader(nvml)
    assert [(r.device, r.used_bytes, r.by_process) for r in reader.read()] == [
        ("host/gpu0", 3 * GIB, None), ("host/gpu1", GIB, None),
    ]  # fmt: skip
    nvml.processes = [process(7, 2 * GIB), process(7, 2 * GIB), process(8, None)]
    assert reader.read()[0].by_process == {7: 2 * GIB}, "one that computes and draws is counted once"
    nvml.broken.add("processes")
    assert reader.read()[0].by_process is None
    assert nvml.opened == 1


def test_a_driver_that_was_replaced_is_opened_again_at_the_next_look() -> None:
    nvml = ScriptedNvml()
    reader = NvmlReader(nvml)
    reader.read()
    nvml.broken = {"count", "shutdown"}
    assert reader.read() == ()
    nvml.broken = {"memory 0"}
    assert [reading.device for reading in reader.read()] == ["host/gpu1"]
    nvml.broken = set()
    assert len(reader.read()) == 2
    assert (nvml.opened, nvml.closed) == (2, 1)
    nvml.broken = {"init"}
    assert NvmlReader(nvml).read() == ()


def a_card(root: Path, name: str, total: str, used: str = "0", product: str = "") -> None:
    folder = root / name / "device"
    folder.mkdir(parents=True)
    (folder / "mem_info_vram_total").write_text(total + "\n")
    (folder / "mem_info_vram_used").write_text(used + "\n")
    if product:
        (folder / "product_name").write_text(product + "\n")


def test_amd_cards_come_in_the_order_of_their_numbers_behind_others(tmp_path: Path) -> None:
    a_card(tmp_path, "card10", str(8 * GIB), str(GIB))
    a_card(tmp_path, "card2", str(24 * GIB), str(2 * GIB), "RX 7900 XTX")
    (tmp_path / "card2-DP-1").mkdir()
    (tmp_path / "card0" / "device").mkdir(parents=True)  # of another make: it has no such files
    (tmp_path / "renderD128").mkdir()
    reader = AmdReader(1, tmp_path)
    assert [(d.id, d.total_bytes, d.name) for d in reader.devices()] == [
        ("host/gpu1", 24 * GIB, "RX 7900 XTX"), ("host/gpu2", 8 * GIB, "AMD GPU"),
    ]  # fmt: skip
    assert [(r.device, r.used_bytes, r.by_process) for r in reader.read()] == [
        ("host/gpu1", 2 * GIB, None), ("host/gpu2", GIB, None),
    ]  # fmt: skip
    (tmp_path / "card2" / "device" / "mem_info_vram_used").write_text("not a number")
    assert [reading.device for reading in reader.read()] == ["host/gpu2"]


def test_no_amd_card_is_no_device(tmp_path: Path) -> None:
    reader = AmdReader(0, tmp_path / "nothing")
    assert reader.devices() == ()
    assert reader.read() == ()
    a_card(tmp_path, "card0", "0")
    assert AmdReader(0, tmp_path).devices() == ()


def no_workers() -> tuple[LiveWorker, ...]:
    return ()


def a_worker(pid: int, **devices: int) -> LiveWorker:
    return LiveWorker(
        target=f"local/{pid}", pid=pid, devices={f"host/{name}": count for name, count in devices.items()}
    )


def test_the_machines_memory_is_a_device_and_page_cache_is_free(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  16777216 kB\nMemFree:  1048576 kB\nMemAvailable:  12582912 kB\n")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text(
        "Name:\tx\nVmRSS:\t 900 kB\nRssAnon:\t 400 kB\nRssFile:\t 500 kB\nRssShmem:\t 8 kB\n"
    )
    reader = RamReader(lambda: [a_worker(7), a_worker(8)], tmp_path)
    (device,) = reader.devices()
    assert (device.id, device.kind, device.total_bytes, device.headroom_bytes) == (HOST_RAM, "ram", 16 * GIB, 2 * GIB)
    (reading,) = reader.read()
    assert (reading.device, reading.used_bytes) == (HOST_RAM, 4 * GIB)
    assert reading.by_process == {7: 408 * 1024, 8: 0}


def test_the_children_of_a_worker_count_as_the_worker(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  16777216 kB\nMemAvailable:  12582912 kB\n")
    for pid, children, anonymous in ((7, "8 9", 1), (8, "10", 20), (9, "", 300), (10, "7", 4000), (11, "", 50_000)):
        (tmp_path / str(pid) / "task" / str(pid)).mkdir(parents=True)
        (tmp_path / str(pid) / "task" / str(pid) / "children").write_text(children)
        (tmp_path / str(pid) / "status").write_text(f"RssAnon:\t {anonymous} kB\n")
    (reading,) = RamReader(lambda: [a_worker(7)], tmp_path).read()
    assert reading.by_process == {7: 4321 * 1024}


def test_where_the_system_tells_the_size_only_there_is_no_reading(tmp_path: Path) -> None:
    reader = RamReader(no_workers, tmp_path)
    (device,) = reader.devices()  # as the C library knows it
    assert device.total_bytes > 0
    assert reader.read() == ()


def test_this_machine_is_read_as_it_is() -> None:
    (device,) = RamReader(no_workers).devices()
    (reading,) = RamReader(no_workers).read()
    assert 0 < reading.used_bytes < device.total_bytes


def a_device(id_: str = "host/gpu0", kind: Any = "simulated", gib: float = 32.0, headroom_gib: float = 0.0) -> Device:
    return Device(id=id_, kind=kind, total_bytes=int(gib * GIB), headroom_bytes=int(headroom_gib * GIB))


def test_a_simulated_device_is_used_as_far_as_its_workers_say() -> None:
    workers: list[LiveWorker] = []
    reader = SimulatedReader([a_device(), a_device("host/gpu1")], lambda: workers)
    assert [(r.used_bytes, r.by_process) for r in reader.read()] == [(0, None), (0, None)]
    workers += [a_worker(1, gpu0=5), a_worker(2, gpu0=7, ram=1), a_worker(3)]
    assert [(r.used_bytes, r.by_process) for r in reader.read()] == [(12, {1: 5, 2: 7}), (0, None)]


def test_a_configured_device_is_never_measured() -> None:
    reader = ConfiguredReader([a_device(kind="configured")])
    assert [device.id for device in reader.devices()] == ["host/gpu0"]
    assert reader.read() == ()


class ListReader:
    """Finds and reads what the test says."""

    def __init__(self, *devices: Device) -> None:
        self._devices = devices

    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def read(self) -> tuple[DeviceReading, ...]:
        return tuple(DeviceReading(device=device.id, used_bytes=1) for device in self._devices)


RAM = a_device(HOST_RAM, "ram", 64, 4)
CARD = a_device("host/gpu0", "nvidia", 32, 2)
OTHER = a_device("host/gpu1", "amd", 24, 1.5)
FOUND = (ListReader(CARD, a_device("host/gpu2", "nvidia", 8, 0.5)), ListReader(OTHER), ListReader(RAM))


def chosen(*entries: DeviceEntry) -> dict[str, Device]:
    readers = choose_readers(list(entries), FOUND, no_workers)
    return {device.id: device for reader in readers for device in reader.devices()}


def test_auto_takes_what_is_found() -> None:
    assert choose_readers("auto", FOUND, no_workers) == list(FOUND)


def test_a_list_replaces_what_is_found_but_the_memory_stays() -> None:
    assert chosen(DeviceEntry(id="host/gpu0")) == {"host/gpu0": CARD, HOST_RAM: RAM}
    assert chosen() == {HOST_RAM: RAM}


def test_sizes_can_be_set_of_what_is_found() -> None:
    found = chosen(
        DeviceEntry(id="host/gpu0", kind="nvidia", headroom_gib=6),
        DeviceEntry(id="host/gpu1", vram_gib=1),
        DeviceEntry(id=HOST_RAM, vram_gib=8, headroom_gib=1),
    )
    assert (found["host/gpu0"].total_bytes, found["host/gpu0"].headroom_bytes) == (32 * GIB, 6 * GIB)
    assert (found["host/gpu1"].total_bytes, found["host/gpu1"].headroom_bytes) == (GIB, GIB)
    assert (found[HOST_RAM].total_bytes, found[HOST_RAM].headroom_bytes) == (8 * GIB, GIB)


def test_simulated_and_configured_devices_need_no_hardware() -> None:
    found = chosen(
        DeviceEntry(id="host/gpu0", kind="simulated", vram_gib=32, headroom_gib=4),
        DeviceEntry(id="lab/gpu7", vram_gib=48),
        DeviceEntry(id="host/gpu1", kind="configured", vram_gib=16),
    )
    kinds = {id_: (device.kind, device.total_bytes, device.headroom_bytes) for id_, device in found.items()}
    assert kinds == {
        "host/gpu0": ("simulated", 32 * GIB, 4 * GIB),
        "lab/gpu7": ("configured", 48 * GIB, 3 * GIB),
        "host/gpu1": ("configured", 16 * GIB, GIB),
        HOST_RAM: ("ram", 64 * GIB, 4 * GIB),
    }


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (DeviceEntry(id="host/gpu9"), "there is no device 'host/gpu9' on this machine"),
        (DeviceEntry(id="host/gpu0", kind="amd"), "there is no amd device 'host/gpu0' on this machine"),
    ],
)
def test_a_device_that_is_not_there_is_told_with_those_that_are(entry: DeviceEntry, words: str) -> None:
    with pytest.raises(SetupError, match=words) as raised:
        chosen(entry)
    assert "host/gpu0 (nvidia), host/gpu2 (nvidia), host/gpu1 (amd), host/ram (ram)" in raised.value.hint


def test_only_chosen_devices_are_read() -> None:
    reader = ChosenReader(FOUND[0], {"host/gpu2": a_device("host/gpu2", "nvidia", 4)})
    assert [device.total_bytes for device in reader.devices()] == [4 * GIB]
    assert [reading.device for reading in reader.read()] == ["host/gpu2"]


def test_this_machine_has_at_least_its_memory() -> None:
    ids = [device.id for reader in found_readers(no_workers) for device in reader.devices()]
    assert HOST_RAM in ids
    assert len(ids) == len(set(ids))


async def test_a_watch_looks_again_and_again_and_survives_a_look_that_fails() -> None:
    seen: list[int] = []
    enough = asyncio.Event()
    looks = iter(range(100))

    def look() -> int:
        count = next(looks)
        assert threading.current_thread() is not threading.main_thread()
        if count == 1:
            raise RuntimeError("a driver with a bad day")
        return count

    def told(count: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append(count)
        if len(seen) == 3:
            enough.set()

    watch = Watch(look, told, 0.001)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watch.run())
        await enough.wait()
        running.cancel()
    assert seen[:3] == [0, 2, 3]


async def test_a_watch_that_is_woken_does_not_wait_for_its_time() -> None:
    seen = asyncio.Queue[int]()
    looks = iter(range(100))
    watch = Watch(lambda: next(looks), seen.put_nowait, 3600.0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watch.run())
        assert await seen.get() == 0
        watch.soon()
        assert await seen.get() == 1
        assert await seen.get() == 2, "a driver gives memory back late: a few more looks follow"
        running.cancel()


async def test_a_look_that_never_returns_holds_nobody_up() -> None:
    for_ever = threading.Event()
    began = threading.Event()

    def look() -> bool:
        began.set()
        return for_ever.wait()

    watch = Watch(look, lambda seen: pytest.fail("nobody is told any more"), 0.001)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watch.run())
        while not began.is_set():
            await asyncio.sleep(0)
        running.cancel()
    for_ever.set()
    await asyncio.sleep(0)
