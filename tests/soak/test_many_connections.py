"""Ten thousand idle connections and two thousand callers who do not read: a healthy caller notices neither.

Prints what a connection costs in the daemon's own memory (pages that it shares with nobody; the kernel's socket buffers
are not in it).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from soak.load import Caller, Upstream, descriptors_of, external, fault_peer, memory_of, percentile
from support.daemon import RunningDaemon, StartDaemon

IDLE, SLOW = 10_000, 2_000
SPARE_DESCRIPTORS = 500
SOURCES = tuple(f"127.0.0.{number}" for number in range(1, 9))
"""Each address has some 28,000 ports of its own."""
AT_ONCE = 200
WRITE_STALL_SECONDS = 10.0
RECEIVE_BYTES = 2048
EVENT_BYTES = 16_384
EVENT_SECONDS = (0.5, 0.0)
"""Every half second: 2,000 callers get 64 MB a second until everything between engine and caller is full, which the
daemon can copy. Without a pause it gets whatever it takes."""
KEEP_ALIVE_SECONDS = 75.0
GRACE_SECONDS = 30.0
"""For a shared machine."""
QUESTIONS = 300
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture
def descriptors() -> Iterator[int]:
    """How many files a process may have open; daemons that are started by the test inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("event_seconds", EVENT_SECONDS)
async def test_many_idle_and_many_slow_callers(
    start_daemon: StartDaemon, descriptors: int, event_seconds: float
) -> None:
    # The daemon needs one descriptor for each idle caller and two for each slow one, the test one for each.
    share = min(1.0, (descriptors - SPARE_DESCRIPTORS) / (IDLE + 2 * SLOW))
    idle_count, slow_count = int(IDLE * share), int(SLOW * share)
    print(f"\n{descriptors} descriptors allowed: {idle_count} idle and {slow_count} slow callers")
    async with fault_peer(0) as peer, fault_peer(0) as other:
        daemon = await start_daemon(
            {
                "models": {"far": external(peer), "other": external(other)},
                "chains": {"orchestrator": ["local/far"]},
                "server": {"max_connections": idle_count + slow_count + SPARE_DESCRIPTORS},
                "deadlines": {"write_stall": WRITE_STALL_SECONDS},
            }
        )
        for target in ("local/far", "local/other"):
            await daemon.until_state(target, "ready")
        await _healthy(daemon, "warming up")
        alone = await _healthy(daemon, "alone")
        files = descriptors_of(daemon.pid)
        async with _idle_callers(daemon, idle_count) as idle:
            beside_idle = await _healthy(daemon, f"beside {idle_count} idle callers")
            await _slow_callers(daemon, peer, slow_count, event_seconds)
            await _until_cut(idle)
        beside_nobody = await _healthy(daemon, "afterwards")
        async with asyncio.timeout(GRACE_SECONDS):
            while descriptors_of(daemon.pid) > files + 2:
                await asyncio.sleep(0.1)
        memory = memory_of(daemon.pid)
        print(f"afterwards: {memory.own / 1024:.0f} MiB, {descriptors_of(daemon.pid)} descriptors (before: {files})")
        for p50, p99 in (beside_idle, beside_nobody):
            assert p50 <= 2 * alone[0] + 10
            assert p99 <= 3 * alone[1] + 100


async def _healthy(daemon: RunningDaemon, when: str, until: asyncio.Event | None = None) -> tuple[float, float]:
    """Ask short questions one after the other; return the median and the 99th percentile in milliseconds.

    Args:
        daemon: Whom.
        when: What the line that is printed says.
        until: Go on until this happens; else so many questions as `QUESTIONS` says.
    """
    caller = Caller(daemon.url)
    milliseconds: list[float] = []
    while not until.is_set() if until is not None else len(milliseconds) < QUESTIONS:
        told = await caller.ask(is_stream=False, model="local/other")
        assert told.is_good, told
        milliseconds.append(told.seconds * 1000)
        await asyncio.sleep(0.005)
    await caller.aclose()
    p50, p99 = percentile(milliseconds, 0.5), percentile(milliseconds, 0.99)
    print(f"a healthy caller {when}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {max(milliseconds):.0f} ms")
    return p50, p99


@contextlib.asynccontextmanager
async def _idle_callers(daemon: RunningDaemon, count: int) -> AsyncIterator[list[socket.socket]]:
    """Open connections that ask once and then keep still."""
    before = memory_of(daemon.pid)
    loop = asyncio.get_running_loop()
    began = loop.time()
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    opened = await _open_all(daemon, count, request)
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            for sock in opened:
                assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200")
        cost = (memory_of(daemon.pid).own - before.own) / count
        print(f"{count} idle callers in {loop.time() - began:.1f} s: {cost:.1f} KiB each")
        assert cost < 32
        yield opened
    finally:
        for sock in opened:
            sock.close()


async def _open_all(daemon: RunningDaemon, count: int, request: bytes, receive_bytes: int = 0) -> list[socket.socket]:
    host, port = daemon.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    turns = asyncio.Semaphore(AT_ONCE)
    opened: list[socket.socket] = []

    async def one(number: int) -> None:
        async with turns:
            sock = socket.socket()
            opened.append(sock)
            sock.setblocking(False)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.bind((SOURCES[number % len(SOURCES)], 0))
            await loop.sock_connect(sock, (host, int(port)))
            await loop.sock_sendall(sock, request)

    async with asyncio.timeout(2 * GRACE_SECONDS), asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(one(number))
    return opened


async def _slow_callers(daemon: RunningDaemon, peer: Upstream, count: int, event_seconds: float) -> None:
    """Ask for endless answers and do not read them: all are cut, and nothing runs on for them."""
    loop = asyncio.get_running_loop()
    before = memory_of(daemon.pid)
    fields = {"model": "auto", "messages": [{"role": "user", "content": "Go"}], "stream": True}
    body = json.dumps({**fields, "event_bytes": EVENT_BYTES, "event_seconds": event_seconds}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    began = loop.time()
    slow = await _open_all(daemon, count, request, RECEIVE_BYTES)
    opened_seconds = loop.time() - began
    cut = asyncio.Event()
    most_running, most_memory, last_seconds = 0, before.own, 0.0
    try:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(_healthy(daemon, f"beside {count} slow callers", cut))
            async with asyncio.timeout(3 * WRITE_STALL_SECONDS + 2 * GRACE_SECONDS):
                state: dict[str, Any] = {"cancelled": 0}
                while state["cancelled"] < count or state["running"]:
                    state = await peer.state()
                    most_running = max(most_running, state["running"])
                    most_memory = max(most_memory, memory_of(daemon.pid).own)
                    await asyncio.sleep(0.1)
            last_seconds = loop.time() - began
            cut.set()
        print(f"{count} slow callers, opened in {opened_seconds:.1f} s: at most {most_running} run upstream, the last "
              f"is cut after {last_seconds:.1f} s; {(most_memory - before.own) / count:.0f} KiB each")  # fmt: skip
        assert last_seconds >= WRITE_STALL_SECONDS
        p50, p99 = asking.result()
        assert p50 < 100
        assert p99 < 3000
        assert (await daemon.status())["running_requests"] == (await peer.state())["running"] == 0
        ends = [_end_of(sock) for sock in slow]
        print(f"they see: { ({end: ends.count(end) for end in set(ends)}) }")
        assert set(ends) == {"reset"}
    finally:
        for sock in slow:
            sock.close()


def _end_of(sock: socket.socket) -> str:
    """Read to the end of what the kernel still has; return how it ends."""
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return "reset"
    except BlockingIOError:
        return "still open"
    return "end of file"


async def _until_cut(idle: list[socket.socket]) -> None:
    """Return once the daemon has closed the idle connections by itself."""
    async with asyncio.timeout(KEEP_ALIVE_SECONDS + GRACE_SECONDS):
        for sock in idle:
            while await asyncio.get_running_loop().sock_recv(sock, 4096):
                pass  # the rest of the answer
