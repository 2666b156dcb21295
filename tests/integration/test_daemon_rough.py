"""What callers, disks and processes do to a daemon that lives long enough."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.daemon import RunningDaemon, StartDaemon, children_of, until_gone
from support.llama_server import LlamaServer
from support.simulated import simulated_server

FAST: dict[str, Any] = {"engine": "simulated", "tokens_per_second": 5000, "roles": ["orchestrator"]}
ENDLESS = {"model": "auto", "stream": True, "ignore_eos": True, "max_tokens": 10_000_000}
QUESTION = {"messages": [{"role": "user", "content": "Hi"}]}


async def test_full_disk_for_the_traces_costs_no_request(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}})
    file = daemon.home / "state" / "turnout" / "traces.sqlite3"
    assert (await daemon.chat()).status_code == 200
    await _until(lambda: file.exists())
    # The kernel refuses every write beyond this size to the daemon's files, as a full disk would.
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    for _ in range(5):
        answer = await daemon.chat()
        assert answer.status_code == 200
        assert (await daemon.why(answer.headers["x-turnout-request-id"]))["outcome"] == "answered"
    await _until(lambda: any("traces cannot be written" in line for line in daemon.output))
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await daemon.chat()).status_code == 200
    assert await daemon.stop() == 0


async def test_a_half_sent_header_ends(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}, "deadlines": {"header": 0.3}})
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(daemon))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-")
    async with asyncio.timeout(5):
        reply = await reader.read()
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    writer.close()
    assert (await daemon.chat()).status_code == 200


async def test_a_body_of_100_mb_is_refused_and_not_kept(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon({"models": {"fast": FAST}, "server": {"max_body_mib": 1}})
    before = _resident_mib(daemon.pid)
    body = b'{"messages": [{"role": "user", "content": "' + b"x" * 100_000_000 + b'"}]}'
    headers = {"content-type": "application/json"}
    reply = await daemon.client.post("/v1/chat/completions", content=body, headers=headers)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"
    assert _resident_mib(daemon.pid) - before < 20
    assert (await daemon.chat()).status_code == 200


async def test_a_caller_that_does_not_read_loses_its_place(start_daemon: StartDaemon) -> None:
    async with simulated_server(tokens_per_second=1_000_000, reply_tokens=0, slots=4) as upstream:
        far = {"engine": "external", "base_url": f"{upstream.url}/v1"}
        # Long enough that even a busy machine sees it running before it is cut.
        daemon = await start_daemon({"models": {"far": far}, "deadlines": {"write_stall": 3.0}})
        body = json.dumps(ENDLESS | QUESTION).encode()
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(("127.0.0.1", _port(daemon)))
            caller.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            caller.setblocking(False)
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(caller, 1)
            assert (await upstream.state())["running"] == 1
            async with asyncio.timeout(20):
                while (await upstream.state())["running"]:
                    pass
        async with asyncio.timeout(5):
            while (await daemon.status())["running_requests"]:
                pass
        assert _resident_mib(daemon.pid) < 120
        assert (await daemon.chat(max_tokens=3)).status_code == 200


async def test_foreign_servers_outlive_a_killed_daemon(start_daemon: StartDaemon, llama_server: LlamaServer) -> None:
    models = {"far": {"engine": "external", "base_url": llama_server.base_url}, "own": FAST}
    daemon = await start_daemon({"models": models})
    assert (await daemon.chat("local/far", max_tokens=3)).status_code == 200
    assert (await daemon.chat("local/own")).status_code == 200
    workers = children_of(daemon.pid)
    body = {"model": "local/far", "stream": True, "max_tokens": 500, **QUESTION}
    async with daemon.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.aiter_bytes()
        await anext(pieces)
        await daemon.stop(signal.SIGKILL)
        with pytest.raises(httpx2.TransportError):
            _ = [piece async for piece in pieces]
    await until_gone(workers)
    assert llama_server.process.returncode is None
    async with httpx2.AsyncClient(timeout=30) as client:
        assert (await client.get(f"{llama_server.base_url}/models")).status_code == 200


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["daemon", "worker"])
@pytest.mark.parametrize("moment", ["load", "streams", "idle"])
async def test_kill_matrix(start_daemon: StartDaemon, tmp_path: Path, victim: str, moment: str) -> None:
    for round_number in range(10):
        slow_load = {**FAST, "load_seconds": 3 if moment == "load" else 0, "tokens_per_second": 50}
        home = tmp_path / f"round{round_number}"
        daemon = await start_daemon({"models": {"first": FAST, "own": slow_load}}, home=home)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(_outcome(daemon, stream=number % 2 == 0))
                for number in range(0 if moment == "idle" else 20)
            ]
            if moment != "idle":
                await _until(lambda d=daemon: len(children_of(d.pid)) == 2)
            if moment == "streams":
                await daemon.until_state("local/own", "ready")
            workers = children_of(daemon.pid)
            os.kill(daemon.pid if victim == "daemon" else max(workers), signal.SIGKILL)
        outcomes = [call.result() for call in calls]
        if victim == "daemon":
            await daemon.process.wait()
            await until_gone(workers)
        else:
            assert "hung" not in outcomes
            assert daemon.process.returncode is None, "".join(daemon.output)
            await daemon.until_state("local/first", "ready")
            assert (await daemon.chat("local/own", max_tokens=2)).status_code == 200
            await daemon.stop()
            await until_gone(workers)


async def _outcome(daemon: RunningDaemon, *, stream: bool) -> str:
    body = {"model": "local/own", "stream": stream, "max_tokens": 50, "ignore_eos": True, **QUESTION}
    try:
        async with asyncio.timeout(30):
            reply = await daemon.client.post("/v1/chat/completions", json=body)
    except TimeoutError:
        return "hung"
    except httpx2.TransportError:
        return "cut"
    if stream and reply.status_code == 200:
        assert reply.text.endswith("data: [DONE]\n\n")
    return str(reply.status_code)


async def _until(is_so: Any) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0)


def _port(daemon: RunningDaemon) -> int:
    return int(daemon.url.rsplit(":", 1)[1])


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)
