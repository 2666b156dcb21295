"""A simulated worker that runs by itself, as somebody else's server would, and tells what it is doing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2


class SimulatedServer:
    """A running worker.

    Args:
        url: Where it listens.
        process: Its process.
        client: Speaks to it directly.
    """

    def __init__(self, url: str, process: asyncio.subprocess.Process, client: httpx2.AsyncClient) -> None:
        self.url = url
        self.process = process
        self._client = client

    async def state(self) -> dict[str, int]:
        """Return its counters."""
        counters: dict[str, int] = (await self._client.get("/simulated/state")).json()
        return counters


@contextlib.asynccontextmanager
async def simulated_server(**settings: Any) -> AsyncIterator[SimulatedServer]:
    """Run a simulated worker by hand, with the given settings of its spec."""
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnout.tiers.local.simulated.worker", *options,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            async for line in process.stdout:
                said = json.loads(line)
                if said.get("ready"):
                    break
        async with httpx2.AsyncClient(base_url=said["url"], timeout=30) as client:
            yield SimulatedServer(said["url"], process, client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
