"""What long runs share: peers in processes of their own, a caller that measures, what /proc says of a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from turnout.core.errors import Broken
from turnout.tiers.http1 import PooledHttp1Transport
from turnout.tiers.transport import Deadlines, HttpRequest

START_SECONDS = 30.0
HANG_SECONDS = 30.0
"""No request may take longer, whatever its engine does."""
PATIENT = Deadlines(connect=10, first_byte=2 * HANG_SECONDS, gap=2 * HANG_SECONDS, write=10)
QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "Go"}]}
HEADERS = ((b"content-type", b"application/json"),)
DONE = b"data: [DONE]\n\n"
Json = dict[str, Any]


class Upstream(NamedTuple):
    """A running peer."""

    url: str
    client: httpx2.AsyncClient

    async def state(self) -> Json:
        """Return its counters."""
        counters: Json = (await self.client.get("/simulated/state")).json()
        return counters


@contextlib.asynccontextmanager
async def upstream(*command: str) -> AsyncIterator[Upstream]:
    """Run a peer; it says its port, or that it is ready and where, on stdout."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = ""
        async with asyncio.timeout(START_SECONDS):
            while not url:
                said = json.loads(await process.stdout.readline())
                url = f"http://127.0.0.1:{said}" if isinstance(said, int) else said.get("url", "")
        async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
            yield Upstream(url, client)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def fault_peer(faults_in_100: int) -> contextlib.AbstractAsyncContextManager[Upstream]:
    """Run fault_peer.py."""
    return upstream(str(Path(__file__).with_name("fault_peer.py")), str(faults_in_100))


def simulated(faults: Sequence[Json] = (), **settings: object) -> contextlib.AbstractAsyncContextManager[Upstream]:
    """Run a simulated worker.

    Args:
        faults: In its own words.
        settings: Of its spec.
    """
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    options += [text for fault in faults for text in ("--fault", json.dumps(fault))]
    return upstream("-m", "turnout.tiers.local.simulated.worker", *options)


def external(peer: Upstream) -> Json:
    """Return the configuration of a model behind a peer."""
    return {"engine": "external", "base_url": f"{peer.url}/v1"}


class Told(NamedTuple):
    """What a caller was told, and when, in seconds from the moment at which it was due to ask."""

    is_stream: bool
    status: int
    first_seconds: float
    seconds: float
    is_good: bool
    is_ended: bool
    code: str


class Caller:
    """Asks a daemon.

    Args:
        url: The daemon's.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._transport = PooledHttp1Transport(max_idle=4096, retry_stale_post=False)

    async def ask(self, *, is_stream: bool, due_at: float | None = None, **fields: Any) -> Told:
        """Ask one question to its end.

        Args:
            is_stream: For events.
            due_at: When it should have been asked, by the loop's clock; now, if left out.
            fields: More of the body.
        """
        now = asyncio.get_running_loop().time
        due_at = now() if due_at is None else due_at
        body = json.dumps({**QUESTION, "stream": is_stream, **fields}).encode()
        request = HttpRequest("POST", self._url, "/v1/chat/completions", HEADERS, body)
        status, first_at, data, broken = 0, 0.0, bytearray(), ""
        try:
            async with asyncio.timeout(HANG_SECONDS):
                response = await self._transport.send(request, PATIENT)
                try:
                    status = response.status
                    while piece := await response.read():
                        first_at = first_at or now()
                        data += piece
                finally:
                    response.close()
        except TimeoutError:
            broken = "hang"
        except Broken as error:
            broken = f"cut: {error.code}"
        is_ended = not broken and (not is_stream or status != 200 or data.endswith(DONE))
        code = broken or error_code(bytes(data), is_events=is_stream and status == 200)
        is_good = status == 200 and is_ended and not code
        return Told(is_stream, status, (first_at or now()) - due_at, now() - due_at, is_good, is_ended, code)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


def error_code(data: bytes, *, is_events: bool) -> str:
    """Return the code of the error in an answer, an empty string if it is a good one."""
    if is_events:
        lines = [line[6:] for line in data.split(b"\n") if line.startswith(b'data: {"error"')]
        return str(json.loads(lines[0])["error"]["code"]) if lines else ""
    try:
        error = json.loads(data).get("error")
    except ValueError:
        return "no JSON"
    return str(error["code"]) if error else ""


async def open_loop(per_second: float, seconds: float, ask: Callable[[int, float], Awaitable[None]]) -> None:
    """Ask at fixed times, however long the answers take.

    Args:
        per_second: The rate.
        seconds: For how long.
        ask: Given the number of the question and when it is due.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(number: int, due_at: float) -> None:
        await ask(number, due_at)

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(per_second * seconds)):
            due_at = began + number / per_second
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            tasks.create_task(one(number, due_at))


async def closed_loop(callers: int, seconds: float, ask: Callable[[int], Awaitable[object]]) -> float:
    """Let each of some callers ask one question after the other; return how many were answered a second."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked = 0

    async def one() -> None:
        nonlocal asked
        while loop.time() < began + seconds:
            asked += 1
            await ask(asked)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(one())
    return asked / (loop.time() - began)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Memory(NamedTuple):
    """What a process holds, in KiB.

    Attributes:
        own: Pages that nobody shares: those of the interpreter's code come and go with other processes.
        rss: All that are in memory.
    """

    own: int
    rss: int


def memory_of(pid: int) -> Memory:
    """Return what /proc says."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name] = int(value)
    return Memory(found["Private_Clean:"] + found["Private_Dirty:"], found["Rss:"])


def descriptors_of(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
