"""One gateway under load, once: what it answers, what it costs, how much memory it holds."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import busy_seconds, cpu_seconds, pss_mib, threads
from benchmarks.process import Failed, run_on, running, wait_for
from benchmarks.rows import Launch, Place, Row, free_port

Sample = dict[str, float]
"""What was measured, by the keys of ``columns.py``."""

CONNECTIONS = (1, 32, 256)
STREAMS = 32
FAST_EVENTS, PACED_EVENTS = 200, 20  # a gateway may drop the one with the usage, which nobody asked for
PACED_STREAM_MS = PACED_EVENTS * 40.0
"""How long a paced stream lasts; so many of them begin evenly spread over it, as people do, and not in lockstep."""
START_SECONDS = 60.0
SETTLE_SECONDS = 2.0
SCRIPT = Path(__file__).with_name("chat.lua")


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    wrk: str
    streams: str
    upstream_port: int
    upstream_pid: int
    core: int
    gateway_core: int
    seconds: float


@dataclass
class Cost:
    """What a load has cost, in seconds of processor time."""

    wall: float = 0.0
    gateway: float = 0.0
    others: float = 0.0


class Gateway:
    """A gateway that runs.

    Args:
        bench: What all rows share.
        url: Its base URL, up to and with ``/v1``.
        pid: The root of its process tree; None if nobody knows it.
    """

    def __init__(self, bench: Bench, url: str, pid: int | None) -> None:
        self._bench = bench
        self.pid = pid
        parts = urllib.parse.urlsplit(url)
        self._port, self._path = parts.port or 80, f"{parts.path.rstrip('/')}/chat/completions"
        self._shares: list[float] = []

    def answers(self) -> bool:
        """Ask once; tell whether a chat completion came back."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        body = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "Hi"}]})
        headers = {"content-type": "application/json", "authorization": "Bearer sk-1234"}
        try:
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            return answer.status == 200 and b"choices" in answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def plain(self, connections: int, seconds: float) -> tuple[dict[str, Any], Cost]:
        """Put plain requests on it.

        Args:
            connections: How many at once.
            seconds: How long.

        Raises:
            Failed: An answer was not 2xx, or there was none.
        """
        self._settle()
        with self._costing() as cost:
            text = run_on(
                [self._bench.wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(SCRIPT),
                 f"http://127.0.0.1:{self._port}{self._path}"],
                self._bench.core, seconds + 30,
            )  # fmt: skip
        result = json.loads(next(line[5:] for line in text.splitlines() if line.startswith("JSON ")))
        wrong = {kind: result[kind] for kind in ("not_2xx", "connect", "read", "write", "timeout") if result[kind]}
        if wrong or not result["requests"]:
            raise Failed(f"plain requests at {connections} connections: {wrong or 'no answer at all'}")
        return result, cost

    def streamed(
        self, model: str, streams: int, seconds: float, *, is_patient: bool = False
    ) -> tuple[dict[str, Any], Cost]:
        """Put streams on it.

        Args:
            model: ``mock`` or ``paced``.
            streams: How many at once.
            seconds: How long.
            is_patient: Whether it is fine that nothing has come yet.

        Raises:
            Failed: A stream was not whole.
        """
        events = PACED_EVENTS if model == "paced" else FAST_EVENTS
        gap_ms = PACED_STREAM_MS / streams if model == "paced" else 0.0
        self._settle()
        with self._costing() as cost:
            text = run_on(
                [self._bench.streams, str(self._port), self._path, model, str(streams), f"{seconds:g}", str(events),
                 f"{gap_ms:g}"],
                self._bench.core, seconds + 30,
            )  # fmt: skip
        result = json.loads(text)
        if result["errors"] or not (result["chunks_per_second"] or is_patient):
            raise Failed(f"{streams} streams of {model!r}: {result['errors']} broken, {result['streams']} whole")
        return result, cost

    def per_cpu_second(self, kind: str, seconds: float) -> float:
        """Return how much it does per second of its processor time, under 32 callers.

        Args:
            kind: ``requests`` or ``chunks``.
            seconds: How long the load lasts.

        Raises:
            Failed: It fails under the load.
        """
        if kind == "requests":
            plain, cost = self.plain(STREAMS, seconds)
            return float(plain["requests"]) / max(cost.gateway, 0.01)
        fast, cost = self.streamed("mock", STREAMS, seconds)
        return float(fast["chunks_per_second"] * fast["seconds"]) / max(cost.gateway, 0.01)

    @contextlib.contextmanager
    def _costing(self) -> Iterator[Cost]:
        def read() -> tuple[float, float, float, float]:
            gateway = cpu_seconds(self.pid) if self.pid is not None else 0.0
            child = resource.getrusage(resource.RUSAGE_CHILDREN)
            own = cpu_seconds(self._bench.upstream_pid) + child.ru_utime + child.ru_stime
            return time.monotonic(), gateway, own, busy_seconds()

        cost, before = Cost(), read()
        yield cost
        cost.wall, cost.gateway, own, busy = (after - begin for after, begin in zip(read(), before, strict=True))
        cost.others = busy - own - cost.gateway
        self._shares.append(cost.others / cost.wall)

    def others_percent(self) -> float:
        """Return what everything else used of one core, on average over all loads."""
        return 100 * sum(self._shares) / len(self._shares)

    def _memory(self, key: str) -> Sample:
        return {key: pss_mib(self.pid)} if self.pid is not None else {}

    def _cost(self, key: str, cost: Cost, done: float) -> Sample:
        """Return how much was done per second of its processor time, and how much of a core it took."""
        if self.pid is None:
            return {}
        return {f"{key}_per_cpu_second": done / max(cost.gateway, 0.01),
                f"{key}_cpu_percent": 100 * cost.gateway / cost.wall}  # fmt: skip

    def _settle(self) -> None:
        """Wait until the gateway has done with what callers of the last load left behind, at most 15 s."""
        for _ in range(75):
            before = cpu_seconds(self.pid) if self.pid is not None else 0.0
            time.sleep(0.2)
            if self.pid is None or cpu_seconds(self.pid) - before < 0.05:
                return

    def _stream_once(self, model: str) -> None:
        for seconds in (1.5, 4.0, 10.0):  # the first one may have a lot to import
            if self.streamed(model, 1, seconds, is_patient=seconds < 10)[0]["streams"]:
                return

    def measure(self) -> Sample:
        """Run all loads.

        Raises:
            Failed: The gateway fails under one of them.
        """
        seconds = self._bench.seconds
        self._stream_once("mock")
        self._stream_once("paced")
        time.sleep(SETTLE_SECONDS)
        sample: Sample = self._memory("idle_mib")
        self.plain(8, 1)
        self._shares.clear()
        for connections in CONNECTIONS:
            plain, cost = self.plain(connections, seconds)
            sample[f"c{connections}_per_second"] = plain["requests"] / plain["seconds"]
            sample[f"c{connections}_p50_ms"] = plain["p50_ms"]
            sample[f"c{connections}_p99_ms"] = plain["p99_ms"]
            sample |= self._cost(f"c{connections}", cost, plain["requests"])
        paced, cost = self.streamed("paced", STREAMS, seconds + 1)
        sample |= {"paced_ttft_p50_ms": paced["ttft_p50_ms"], "paced_ttft_p99_ms": paced["ttft_p99_ms"]}
        sample |= self._cost("paced", cost, paced["chunks_per_second"] * paced["seconds"])
        fast, cost = self.streamed("mock", STREAMS, seconds)
        sample |= {"chunks_per_second": fast["chunks_per_second"], "streams_per_second": fast["streams_per_second"]}
        sample |= {"fast_ttft_p50_ms": fast["ttft_p50_ms"], "fast_ttft_p99_ms": fast["ttft_p99_ms"]}
        sample |= self._cost("chunks", cost, fast["chunks_per_second"] * fast["seconds"])
        return sample | self._memory("loaded_mib") | {"others_percent": self.others_percent()}


@contextlib.contextmanager
def pinned(pid: int, core: int) -> Iterator[None]:
    """Move a process that somebody else started to a core, and back afterwards."""
    before = os.sched_getaffinity(pid)
    _pin(pid, {core})
    try:
        yield
    finally:
        _pin(pid, before)


def _pin(pid: int, to: set[int]) -> None:
    for thread in threads(pid):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, to)


@contextlib.contextmanager
def started(bench: Bench, row: Row, home: Path) -> Iterator[tuple[Gateway, float | None]]:
    """Start a gateway and wait for its first answer; yield it and how many seconds that took, if it was started here.

    Args:
        bench: What all rows share.
        row: The gateway.
        home: An empty directory.

    Raises:
        Failed: It does not start.
    """
    launch: Launch = row.launch(Place(home, free_port(), bench.upstream_port))
    log = home / "output.txt"
    with contextlib.ExitStack() as stack:
        begin, process, pid = time.monotonic(), None, launch.pid
        if launch.command:
            process = stack.enter_context(running(launch.command, bench.gateway_core, log, launch.env))
            pid = process.pid
        elif pid is not None:
            stack.enter_context(pinned(pid, bench.gateway_core))
        gateway = Gateway(bench, launch.url, pid)
        wait_for(gateway.answers, process, log, START_SECONDS)
        yield gateway, time.monotonic() - begin if launch.command else None


def measure(bench: Bench, row: Row, home: Path) -> Sample:
    """Start a gateway, put every load on it, and end it.

    Raises:
        Failed: With the reason.
    """
    with started(bench, row, home) as (gateway, seconds):
        sample = gateway.measure()
    return sample if seconds is None else sample | {"start_seconds": seconds}
