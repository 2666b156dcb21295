"""Real daemons for the integration tests, each with its own directories, ports and processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import yaml

READY_SECONDS = 60.0
END_SECONDS = 15.0
QUIET: dict[str, Any] = {"discover": []}
"""Nothing that runs on the developer's machine may be found by a test."""


class RunningDaemon:
    """A daemon in a process of its own.

    Args:
        process: The process.
        url: Where it listens.
        home: Its XDG directories.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str, home: Path) -> None:
        self.process = process
        self.url = url
        self.home = home
        self.client = httpx2.AsyncClient(base_url=url, timeout=60, limits=httpx2.Limits(max_connections=None))
        self.output: list[str] = []

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    async def status(self) -> dict[str, Any]:
        """Return what `turnout ps --json` shows."""
        reply: dict[str, Any] = (await self.client.get("/turnout/v1/status")).json()
        return reply

    async def state_of(self, target: str) -> str:
        """Return the state of one target."""
        states = {entry["name"]: entry["state"] for entry in (await self.status())["targets"]}
        return str(states.get(target, "gone"))

    async def until_state(self, target: str, state: str, seconds: float = READY_SECONDS) -> None:
        """Return once a target is in a state."""
        async with asyncio.timeout(seconds):
            while await self.state_of(target) != state:
                pass  # each look is a round trip

    async def chat(self, model: str = "auto", **fields: Any) -> httpx2.Response:
        """Ask a question; return the whole answer."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def why(self, request_id: str) -> dict[str, Any]:
        """Return the trace of a request."""
        reply = await self.client.get(f"/turnout/v1/traces/{request_id}")
        trace: dict[str, Any] = reply.json()
        assert reply.status_code == 200, trace
        return trace

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(END_SECONDS):
            return await self.process.wait()

    async def aclose(self) -> None:
        """End everything, whatever the test left."""
        await self.client.aclose()
        if self.process.returncode is None:
            try:
                await self.stop()
            except TimeoutError:
                await self.stop(signal.SIGKILL)


StartDaemon = Callable[..., Awaitable[RunningDaemon]]


async def launch(home: Path, config: dict[str, Any], port: int = 0, **environment: str) -> RunningDaemon:
    """Start a daemon and wait until it takes requests.

    Args:
        home: For its XDG directories.
        config: The content of its turnout.yaml; discovery is off unless the test asks for it.
        port: 0 for any free one.
        environment: More variables.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / "turnout.yaml"
    file.write_text(yaml.safe_dump(QUIET | config))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TURNOUT_", "XDG_"))}
    kept |= {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")} | environment
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "turnout.app", "--config", str(file), "--port", str(port),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=kept,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(READY_SECONDS):
        async for line in process.stderr:
            lines.append(line.decode())
            if "turnout is ready at" in lines[-1]:
                url = lines[-1].split("ready at ")[1].split()[0]
                break
        else:
            raise AssertionError(f"the daemon ended with {await process.wait()}:\n{''.join(lines)}")
    daemon = RunningDaemon(process, url, home)
    daemon.output = lines
    return daemon


def children_of(pid: int) -> set[int]:
    """Return the processes that a process started, and theirs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


async def until_gone(pids: set[int], seconds: float = END_SECONDS) -> None:
    """Return once none of these processes lives (a zombie does not)."""
    async with asyncio.timeout(seconds):
        while any(_lives(pid) for pid in pids):
            await asyncio.sleep(0)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
