"""A ComfyUI takes its turn on the card: its queue brings a lease, and its memory, seen to be free, ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.daemon import RunningDaemon, StartDaemon
from support.scheduling import CARD

PATIENCE_SECONDS = 40.0
GIB = 1 << 30


class ComfyUiDouble:
    """Answers ``/queue``, ``/system_stats`` and ``/free`` in the shape of ComfyUI's server.py; the test sets the rest.

    Like the real one it frees its memory at the next turn of its queue, not when it is asked: ``turn`` is that turn.
    """

    def __init__(self) -> None:
        self.url = ""
        self.jobs = 0
        self.held = 0
        self.asked_free = asyncio.Event()

    def turn(self) -> None:
        """Do what was asked for."""
        if self.asked_free.is_set():
            self.held = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ComfyUiDouble]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        body = await reader.readexactly(length)
        data = json.dumps(self._answer(path, body)).encode() if path != "/free" else self._free(body)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(data), data))
        await writer.drain()
        writer.close()

    def _free(self, body: bytes) -> bytes:
        assert json.loads(body) == {"unload_models": True, "free_memory": True}
        self.asked_free.set()
        return b""

    def _answer(self, path: str, _: bytes) -> Any:
        if path == "/queue":
            jobs = [[number, f"id{number}", {}, {}, []] for number in range(self.jobs)]
            return {"queue_running": jobs[:1], "queue_pending": jobs[1:]}
        assert path == "/system_stats"
        card = {"name": "cuda:0 NVIDIA", "type": "cuda", "index": 0, "vram_total": 32 * GIB, "vram_free": 9 * GIB}
        card |= {"torch_vram_total": self.held, "torch_vram_free": 0}
        return {"system": {"os": "posix", "comfyui_version": "0.3.64"}, "devices": [card]}


async def holders(daemon: RunningDaemon) -> list[str]:
    (card, _) = (await daemon.client.get("/turnout/v1/devices")).json()["devices"]
    return [holder["holder"] for holder in card["holders"]]


async def until_held_by(daemon: RunningDaemon, *names: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await holders(daemon) != list(names):
            await asyncio.sleep(0.01)


async def test_a_job_in_its_queue_makes_an_idle_model_give_way_until_the_memory_is_free(
    start_daemon: StartDaemon,
) -> None:
    async with ComfyUiDouble().running() as comfyui:
        model = {"engine": "simulated", "vram_gib": 20, "tokens_per_second": 5000, "min_residency_seconds": 0}
        daemon = await start_daemon(
            {
                "profile": "none", "profiles": {"none": {}},
                "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32, "headroom_gib": 4}],
                "models": {
                    "chat": {**model, "roles": ["orchestrator"]},
                    "pictures": {"engine": "comfyui", "base_url": comfyui.url, "vram_gib": 16, "idle_seconds": 1,
                                 "roles": ["image"]},
                },
            }
        )  # fmt: skip
        await daemon.until_state("local/chat", "ready")
        await until_held_by(daemon, "local/chat")
        comfyui.jobs, comfyui.held = 2, 12 * GIB
        await until_held_by(daemon, "pictures")
        leases = (await daemon.client.get("/turnout/v1/leases")).json()["leases"]
        assert [(lease["holder"], lease["class"], lease["devices"]) for lease in leases] == [
            ("pictures", "job", {CARD: 16 * GIB})
        ]
        comfyui.jobs = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            await comfyui.asked_free.wait()
        assert await holders(daemon) == ["pictures"], "it has only been asked"
        comfyui.turn()
        await until_held_by(daemon)
        assert (await daemon.chat()).status_code == 200
        assert await holders(daemon) == ["local/chat"]


async def test_a_lease_that_can_never_be_is_told_and_asked_for_once(start_daemon: StartDaemon) -> None:
    async with ComfyUiDouble().running() as comfyui:
        daemon = await start_daemon(
            {
                "profile": "none", "profiles": {"none": {}},
                "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32}],
                "models": {"pictures": {"engine": "comfyui", "base_url": comfyui.url, "vram_gib": 99}},
            }
        )  # fmt: skip
        comfyui.jobs = 1
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "no lease: " not in (shown := (await daemon.status())["targets"][0]["detail"]):
                await asyncio.sleep(0.01)
        assert "99.0 GiB" in shown


async def test_a_comfyui_that_dies_keeps_its_lease_no_longer_than_it_lasts(start_daemon: StartDaemon) -> None:
    async with ComfyUiDouble().running() as comfyui:
        daemon = await start_daemon(
            {
                "profile": "none", "profiles": {"none": {}},
                "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32}],
                "models": {"pictures": {"engine": "comfyui", "base_url": comfyui.url, "vram_gib": 16}},
            }
        )  # fmt: skip
        comfyui.jobs = 1
        await until_held_by(daemon, "pictures")
        assert await daemon.state_of("local/pictures") == "ready"
    await until_held_by(daemon)
    assert await daemon.state_of("local/pictures") == "unreachable"
