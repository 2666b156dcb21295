"""The client's side of a lease: asked, waited for, renewed, found again after a restart, given back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from turnout.client import ApiError, DaemonNotReachable, LeaseNotGranted, LeaseWaiting, Turnout
from turnout.client import lease as module
from turnout.client.lease import LeaseHold

DEMAND = {"host/gpu0": 16 << 30}
PATIENCE_SECONDS = 10.0


def a_lease(id_: str = "lease_1", **facts: Any) -> dict[str, Any]:
    return {
        "id": id_, "devices": DEMAND, "class": "job", "holder": "painter", "priority": "normal", "granted_at": 1.0,
        "expires_at": 61.0, "process": None, **facts,
    }  # fmt: skip


def event(**fact: Any) -> bytes:
    return b"data: " + json.dumps(fact).encode() + b"\n\n"


def waiting(position: int) -> bytes:
    return event(waiting={"id": "lease_1", "position": position, "waited_seconds": 1.0, "expected_wait_seconds": 4.0})


def an_error(code: str, status: int, **facts: Any) -> dict[str, Any]:
    return {"error": {"message": f"{code} happened", "code": code, "hint": "do this", **facts}, "status": status}


class Daemon:
    """A daemon in memory: answers from a script, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, str]] = []
        self.events: list[Any] = [[event(lease=a_lease())]]
        self.renewals: list[Any] = []
        self.grants: list[Any] = []
        self.news = asyncio.Event()

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/turnout/v1/leases")
        body = json.loads(request.content or b"{}")
        self.asked.append((request.method, path, body, request.headers.get("authorization", "")))
        self.news.set()
        if request.method == "DELETE":
            return httpx2.Response(200, json={"released": a_lease()})
        if path.endswith("/renew"):
            return self._next(self.renewals, httpx2.Response(200, json=a_lease(path.split("/")[1])))
        assert request.headers["content-type"] == "application/json"
        if request.headers["accept"] == "text/event-stream":
            script = self.events.pop(0) if len(self.events) > 1 else self.events[0]
            if isinstance(script, Exception):
                raise script
            if isinstance(script, httpx2.Response):
                return script
            return httpx2.Response(200, content=self._stream(script))
        return self._next(self.grants, httpx2.Response(201, json=a_lease("lease_2")))

    async def _stream(self, script: list[Any]) -> AsyncIterator[bytes]:
        for piece in script:
            if isinstance(piece, Exception):
                raise piece
            if callable(piece):
                await piece()
            else:
                yield piece

    def _next(self, script: list[Any], usual: httpx2.Response) -> httpx2.Response:
        reply = script.pop(0) if script else usual
        if isinstance(reply, Exception):
            raise reply
        return reply

    def count(self, method: str, ending: str) -> int:
        return sum(m == method and path.endswith(ending) for m, path, _, _ in self.asked)

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not wanted():
                self.news.clear()
                await self.news.wait()

    def client(self) -> Turnout:
        return Turnout("http://127.0.0.1:9", "sk-key", async_transport=httpx2.MockTransport(self.answer))


def hold(daemon: Daemon, **options: Any) -> LeaseHold:
    given: dict[str, Any] = {"holder": "painter", "ttl_seconds": 60.0, **options}
    return daemon.client().lease(DEMAND, **given)


async def test_a_lease_is_held_for_a_block_and_given_back() -> None:
    daemon = Daemon()
    async with hold(daemon, priority="background", wait_seconds=5.0) as lease:
        assert lease.id == "lease_1"
        assert (lease.granted.devices, lease.granted.lease_class, lease.granted.expires_at) == (DEMAND, "job", 61.0)
        assert not lease.is_lost
    (asked, released) = daemon.asked
    assert asked[2].pop("wait_seconds") == pytest.approx(5.0, abs=1.0)
    assert asked == (
        "POST", "",
        {"devices": DEMAND, "class": "job", "holder": "painter", "ttl_seconds": 60.0, "priority": "background",
         "process": os.getpid()},
        "Bearer sk-key",
    )  # fmt: skip
    assert released[:2] == ("DELETE", "/lease_1")


async def test_outside_of_its_block_there_is_no_lease() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = hold(Daemon()).id


async def test_what_the_block_raises_comes_out_as_it_is_and_the_lease_is_given_back() -> None:
    daemon = Daemon()
    with pytest.raises(ZeroDivisionError):
        async with hold(daemon):
            _ = 1 / 0
    assert daemon.count("DELETE", "/lease_1") == 1


async def test_a_daemon_elsewhere_knows_nothing_of_our_processes() -> None:
    daemon = Daemon()
    transport = httpx2.MockTransport(daemon.answer)
    far = Turnout("https://gpu.example.org", async_transport=transport)
    async with far.lease(DEMAND, process=0):
        pass
    async with far.lease(DEMAND):
        pass
    assert [body["process"] for method, _, body, _ in daemon.asked if method == "POST"] == [0, 0]
    assert daemon.asked[0][2]["holder"] == Path(sys.argv[0]).name


async def test_the_waiting_is_told() -> None:
    daemon = Daemon()
    daemon.events = [[waiting(2), waiting(1), event(lease=a_lease())]]
    places: list[LeaseWaiting] = []
    async with hold(daemon, on_waiting=places.append):
        pass
    assert [(place.position, place.expected_wait_seconds) for place in places] == [(2, 4.0), (1, 4.0)]


async def test_who_holds_it_is_told_when_it_is_not_granted() -> None:
    daemon = Daemon()
    holders = [{"holder": "local/a", "class": "resident", "devices": DEMAND}]
    refused = an_error("lease_not_granted", 409, position=3, expected_wait_seconds=7.0, holders=holders)
    daemon.events = [[waiting(3), event(**refused)]]
    with pytest.raises(LeaseNotGranted, match="lease_not_granted happened") as raised:
        async with hold(daemon):
            pass
    error = raised.value
    assert (error.status, error.position, error.expected_wait_seconds, error.holders) == (409, 3, 7.0, holders)
    assert daemon.count("DELETE", "") == 0


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (httpx2.Response(400, json=an_error("unknown_device", 400)), "unknown_device"),
        (httpx2.Response(404, text="not turnout"), "not_turnout"),
        (httpx2.ConnectError("refused"), "daemon_not_reachable"),
        ([event(**an_error("shutting_down", 503))], "shutting_down"),
        ([b"data: no json\n\n"], "not_turnout"),
        ([b": a comment\n\n"], "daemon_not_reachable"),
        ([httpx2.ReadError("reset")], "daemon_not_reachable"),
    ],
)
async def test_what_cannot_be_is_an_error_at_once(script: Any, code: str) -> None:
    daemon = Daemon()
    daemon.events = [script]
    with pytest.raises((ApiError, DaemonNotReachable)) as raised:
        async with hold(daemon, wait_seconds=60.0):
            pass
    assert raised.value.code == code


async def test_whoever_waits_goes_on_waiting_over_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    daemon = Daemon()
    daemon.events = [
        [waiting(2), httpx2.ReadError("the daemon was killed")],
        httpx2.ConnectError("refused"),
        [waiting(1), event(**an_error("shutting_down", 503))],
        [waiting(1), event(lease=a_lease("lease_9"))],
    ]
    troubles: list[str] = []
    keys = iter(("sk-one", "sk-two", "sk-three", "sk-four"))
    options = {"on_trouble": troubles.append, "where": lambda: ("http://127.0.0.1:9", next(keys))}
    async with hold(daemon, wait_seconds=60.0, **options) as lease:
        assert lease.id == "lease_9"
    assert len(troubles) == 2, "once for each time that it was lost"
    assert [key for method, _, _, key in daemon.asked if method == "POST"] == [
        "Bearer sk-one", "Bearer sk-two", "Bearer sk-three", "Bearer sk-four",
    ]  # fmt: skip
    waits = [body["wait_seconds"] for method, _, body, _ in daemon.asked if method == "POST"]
    assert waits == sorted(waits, reverse=True)


async def test_waiting_over_a_restart_ends_with_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    daemon = Daemon()
    daemon.events = [[waiting(2), httpx2.ReadError("killed")], httpx2.ConnectError("refused")]
    with pytest.raises(DaemonNotReachable, match="refused"):
        async with hold(daemon, wait_seconds=0.05):
            pass


async def test_it_is_renewed_while_the_block_runs() -> None:
    daemon = Daemon()
    async with hold(daemon, ttl_seconds=0.003) as lease:
        await daemon.until(lambda: daemon.count("POST", "/lease_1/renew") >= 3)
        assert lease.id == "lease_1"
    assert next(body for _, path, body, _ in daemon.asked if path.endswith("/renew")) == {"ttl_seconds": 0.003}


async def test_a_daemon_that_is_away_is_asked_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    daemon = Daemon()
    daemon.renewals = [httpx2.ConnectError("refused"), httpx2.ConnectError("refused")]
    troubles: list[str] = []
    async with hold(daemon, ttl_seconds=0.003, on_trouble=troubles.append) as lease:
        await daemon.until(lambda: daemon.count("POST", "/lease_1/renew") >= 5)
        assert not lease.is_lost
    assert len(troubles) == 1
    assert "renewed as soon as it answers" in troubles[0]


async def test_a_lease_that_the_daemon_does_not_know_is_asked_for_anew() -> None:
    daemon = Daemon()
    daemon.renewals = [httpx2.Response(404, json=an_error("lease_not_found", 404))]
    troubles: list[str] = []
    async with hold(daemon, ttl_seconds=0.003, on_trouble=troubles.append) as lease:
        await daemon.until(lambda: daemon.count("POST", "/lease_2/renew") >= 1)
        assert (lease.id, lease.is_lost) == ("lease_2", False)
    assert troubles == ["the daemon no longer knew lease_1; it was granted anew as lease_2"]
    assert daemon.count("DELETE", "/lease_2") == 1
    (anew,) = [body for method, path, body, _ in daemon.asked[1:] if (method, path) == ("POST", "")]
    assert anew["wait_seconds"] == 0.0


async def test_a_lease_that_cannot_be_had_again_is_lost_and_tried_for_on() -> None:
    daemon = Daemon()
    unknown = httpx2.Response(404, json=an_error("lease_not_found", 404))
    daemon.renewals = [unknown, unknown]
    daemon.grants = [httpx2.Response(409, json=an_error("lease_not_granted", 409))]
    troubles: list[str] = []
    async with hold(daemon, ttl_seconds=0.003, on_trouble=troubles.append) as lease:
        await daemon.until(lambda: len(troubles) == 1)
        lost = [lease.is_lost]
        await daemon.until(lambda: daemon.count("POST", "/lease_2/renew") >= 1)
        lost.append(lease.is_lost)
    assert lost == [True, False]
    assert "cannot grant it anew" in troubles[0]


async def test_another_error_of_a_renewal_is_told_and_tried_again() -> None:
    daemon = Daemon()
    daemon.renewals = [httpx2.Response(500, json=an_error("internal_error", 500))]
    troubles: list[str] = []
    async with hold(daemon, ttl_seconds=0.003, on_trouble=troubles.append):
        await daemon.until(lambda: daemon.count("POST", "/lease_1/renew") >= 2)
    assert troubles == ["the lease cannot be renewed: internal_error happened"]


async def test_nobody_needs_to_listen() -> None:
    daemon = Daemon()
    daemon.events = [[waiting(1), event(lease=a_lease())]]
    daemon.renewals = [httpx2.Response(500, json=an_error("internal_error", 500))]
    async with hold(daemon, ttl_seconds=0.003):
        await daemon.until(lambda: daemon.count("POST", "/lease_1/renew") >= 2)


async def test_whoever_is_cancelled_while_it_waits_lets_go_of_the_connection() -> None:
    daemon = Daemon()
    left = asyncio.Event()

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    daemon.events = [[waiting(1), for_ever]]

    async def use() -> None:
        async with hold(daemon, wait_seconds=60.0):
            pytest.fail("it was never granted")

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        using = tasks.create_task(use())
        await daemon.until(lambda: bool(daemon.asked))
        await asyncio.sleep(0)
        using.cancel()
        await asyncio.wait([using])
        assert using.cancelled()


def test_devices_and_leases_can_be_read_and_released() -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.method, request.url.raw_path.decode()))
        if request.method == "DELETE":
            assert request.headers["content-type"] == "application/json"
            return httpx2.Response(200, json={"released": a_lease()})
        return httpx2.Response(200, json={"devices": [{"id": "host/gpu0"}], "leases": [], "waiting": []})

    client = Turnout("http://127.0.0.1:9", transport=httpx2.MockTransport(answer))
    assert client.devices() == [{"id": "host/gpu0"}]
    assert client.leases()["waiting"] == []
    assert client.release_lease("lease/1")["holder"] == "painter"
    assert seen[-1] == ("DELETE", "/turnout/v1/leases/lease%2F1")
