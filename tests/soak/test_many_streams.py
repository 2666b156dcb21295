"""A thousand streams at once: no error, flat memory, and nothing runs upstream after the callers have left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.daemon import RunningDaemon, StartDaemon
from support.simulated import simulated_server

STREAMS = 1000
TOKENS = 200
BODY = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Go"}], "max_tokens": TOKENS}
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


async def test_a_thousand_streams(start_daemon: StartDaemon) -> None:
    async with simulated_server(slots=STREAMS, tokens_per_second=30, reply_tokens=TOKENS) as upstream:
        daemon = await start_daemon({"models": {"far": _external(upstream.url)}})
        await _all_streams(daemon, STREAMS)  # the first thousand sets the high-water mark of what the allocator keeps
        sizes = []
        for _ in range(3):
            ended = await _all_streams(daemon, STREAMS)
            assert ended == STREAMS
            sizes.append(_resident_mib(daemon.pid))
        assert sizes[2] - sizes[0] < 8, f"memory grows: {sizes}"
        state = await upstream.state()
        assert state["cancelled"] == 0
        print(f"\nresident MiB after each round of {STREAMS} streams: {sizes}")


async def test_nothing_runs_on_when_a_thousand_callers_vanish(start_daemon: StartDaemon) -> None:
    async with simulated_server(slots=STREAMS, tokens_per_second=20, reply_tokens=100_000) as upstream:
        daemon = await start_daemon({"models": {"far": _external(upstream.url)}})
        body = json.dumps({**BODY, "max_tokens": 100_000, "ignore_eos": True}).encode()
        host, port = daemon.url.removeprefix("http://").split(":")
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        request = head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        callers = []
        async with asyncio.timeout(120):
            for _ in range(STREAMS):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(request)
                callers.append((reader, writer))
            for reader, _ in callers:
                assert await reader.read(64)
        assert (await upstream.state())["running"] == STREAMS
        for _, writer in callers:
            writer.transport.abort()
        async with asyncio.timeout(10):
            while (await upstream.state())["running"]:
                pass
            while (await daemon.status())["running_requests"]:
                pass
        assert (await upstream.state())["cancelled"] == STREAMS


def _external(url: str) -> dict[str, Any]:
    return {"engine": "external", "base_url": f"{url}/v1", "roles": ["orchestrator"]}


async def _all_streams(daemon: RunningDaemon, count: int) -> int:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=daemon.url, timeout=120, limits=limits) as client:

        async def one() -> bool:
            async with client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
                last = b""
                async for piece in answer.aiter_raw():
                    last = (last + piece)[-64:]
                return answer.status_code == 200 and last.endswith(b"data: [DONE]\n\n")

        return sum(await asyncio.gather(*(one() for _ in range(count))))


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)
