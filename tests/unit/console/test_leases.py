"""Leases over HTTP: what is asked, what comes back, and what is said to nonsense."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from support.scheduling import CARD, Shell, a_model, running
from turnout.console.api import Console
from turnout.console.leases import Leases
from turnout.core.memory import GIB

GOOD: dict[str, Any] = {"devices": {CARD: 20 * GIB}, "class": "job", "holder": "painter", "ttl_seconds": 30}
LEASES = "/turnout/v1/leases"


@asynccontextmanager
async def served(shell: Shell) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a shell and speak to its console."""
    nobody = cast("Any", None)
    console = Console(
        status=dict, traces=nobody, default_model=nobody, shut_down=lambda: None, routes=Leases(shell.loop).routes()
    )
    transport = httpx2.ASGITransport(app=console.app())
    async with running(shell), httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


def lease_body(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | changes).items() if value is not None}


async def test_a_lease_from_grant_to_release(tmp_path: Path) -> None:
    async with served(Shell(tmp_path)) as client:
        granted = await client.post(LEASES, json=lease_body(priority="background", process=os.getpid()))
        assert granted.status_code == 201
        lease = granted.json()
        assert lease["id"].startswith("lease_")
        assert lease["expires_at"] == pytest.approx(lease["granted_at"] + 30)
        assert {key: lease[key] for key in ("devices", "class", "holder", "priority", "process")} == {
            "devices": {CARD: 20 * GIB}, "class": "job", "holder": "painter", "priority": "background",
            "process": os.getpid(),
        }  # fmt: skip
        assert (await client.get(LEASES)).json() == {"leases": [lease], "waiting": []}

        renewed = await client.post(f"{LEASES}/{lease['id']}/renew", json={"ttl_seconds": 3600})
        assert renewed.status_code == 200
        assert renewed.json()["expires_at"] > lease["expires_at"] + 3000

        released = await client.request("DELETE", f"{LEASES}/{lease['id']}")
        assert (released.status_code, released.json()) == (200, {"released": renewed.json()})
        for again in (
            await client.request("DELETE", f"{LEASES}/{lease['id']}"),
            await client.post(f"{LEASES}/{lease['id']}/renew", json={"ttl_seconds": 60}),
        ):
            assert (again.status_code, again.json()["error"]["code"]) == (404, "lease_not_found")
            assert again.json()["error"]["hint"]


async def test_priority_and_waiting_may_be_left_out(tmp_path: Path) -> None:
    async with served(Shell(tmp_path)) as client:
        lease = (await client.post(LEASES, json=GOOD)).json()
        assert (lease["priority"], lease["process"]) == ("normal", None)


async def test_without_room_the_answer_says_what_to_wait_for(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(gib=4, lease_class="pinned"))
    async with served(shell) as client:
        await shell.loop.requests.load("local/a")
        first = (await client.post(LEASES, json=GOOD)).json()
        refused = await client.post(LEASES, json=lease_body(wait_seconds=0.05))
        assert refused.status_code == 409
        error = refused.json()["error"]
        assert (error["code"], error["type"], error["retryable"]) == ("lease_not_granted", "overloaded_error", True)
        assert error["position"] == 1
        assert error["hint"]
        assert error["request_id"].startswith("req_")
        assert [holder["holder"] for holder in error["holders"]] == ["local/a", "painter"]
        assert error["holders"][1] == {
            "holder": "painter", "class": "job", "devices": {CARD: 20 * GIB}, "lease": first["id"], "phase": "",
            "running": 0,
        }  # fmt: skip
        if error["expected_wait_seconds"] is not None:
            assert int(refused.headers["retry-after"]) >= 1


async def test_devices_say_who_holds_what(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(gib=4))
    async with served(shell) as client:
        await shell.loop.requests.load("local/a")
        lease = (await client.post(LEASES, json=GOOD)).json()
        card, ram = (await client.get("/turnout/v1/devices")).json()["devices"]
        assert (card["id"], card["kind"], card["total_bytes"], card["headroom_bytes"]) == (
            CARD,
            "simulated",
            28 * GIB,
            0,
        )
        assert (card["granted_bytes"], card["free_bytes"], card["measured_bytes"]) == (24 * GIB, 4 * GIB, None)
        assert card["unattributed_bytes"] == 0
        assert [(entry["holder"], entry["bytes"], entry["lease"], entry["phase"]) for entry in card["holders"]] == [
            ("local/a", 4 * GIB, "", "ready"), ("painter", 20 * GIB, lease["id"], ""),
        ]  # fmt: skip
        assert (ram["id"], ram["holders"]) == ("host/ram", [])


@pytest.mark.parametrize(
    ("changes", "status", "code", "param", "words"),
    [
        ({"devices": {"host/gpu": 1}}, 400, "unknown_device", "devices", "host/gpu0"),
        ({"devices": {"zzz": 1}}, 400, "unknown_device", "devices", "there are: host/gpu0, host/ram"),
        ({"devices": {CARD: -1}}, 400, "invalid_request", "devices", "devices: expected 'int' >= 1"),
        ({"devices": {CARD: 0}}, 400, "invalid_request", "devices", "expected 'int' >= 1"),
        ({"devices": {CARD: 1.5}}, 400, "invalid_request", "devices", "expected 'int', got 'float'"),
        ({"devices": {CARD: 1 << 60}}, 400, "invalid_request", "devices", "<="),
        ({"devices": {}}, 400, "invalid_request", "devices", "length >= 1"),
        ({"devices": {CARD: 29 * GIB}}, 422, "lease_too_large", "devices", "29"),
        ({"class": "jobs"}, 400, "invalid_request", "class", "'jobs'"),
        ({"class": None}, 400, "invalid_request", None, "missing required field 'class'"),
        ({"holder": ""}, 400, "invalid_request", "holder", "length >= 1"),
        ({"holder": "x" * 201}, 400, "invalid_request", "holder", "length <= 200"),
        ({"ttl_seconds": 0.5}, 400, "invalid_request", "ttl_seconds", ">= 1"),
        ({"ttl_seconds": 1e9}, 400, "invalid_request", "ttl_seconds", "<= 86400"),
        ({"ttl_seconds": None}, 400, "invalid_request", None, "missing required field 'ttl_seconds'"),
        ({"wait_seconds": -1}, 400, "invalid_request", "wait_seconds", ">= 0"),
        ({"wait_seconds": 1e9}, 400, "invalid_request", "wait_seconds", "<="),
        ({"priority": "urgent"}, 400, "invalid_request", "priority", "'urgent'"),
        ({"process": 999_999_999}, 400, "unknown_process", "process", "999999999"),
        ({"clas": "job"}, 400, "invalid_request", None, "unknown field 'clas'"),
    ],
)
async def test_nonsense_is_told_with_the_field_that_is_wrong(
    tmp_path: Path, changes: dict[str, Any], status: int, code: str, param: str | None, words: str
) -> None:
    async with served(Shell(tmp_path)) as client:
        answer = await client.post(LEASES, json=lease_body(**changes))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
        assert words in error["message"] + " " + error["hint"]
        assert error["hint"]
        assert (await client.get(LEASES)).json() == {"leases": [], "waiting": []}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"devices": ' + b"[" * 100_000, b'"x"'])
async def test_a_body_that_is_none_is_the_callers_mistake(tmp_path: Path, body: bytes) -> None:
    async with served(Shell(tmp_path)) as client:
        for path in (LEASES, f"{LEASES}/lease_1/renew"):
            answer = await client.post(path, content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_other_methods_are_told_which_are_known(tmp_path: Path) -> None:
    async with served(Shell(tmp_path)) as client:
        answer = await client.request("PUT", f"{LEASES}/lease_1")
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE")


def events_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    pieces = answer.text.split("\n\n")
    assert pieces.pop() == ""
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces]


ASKS_FOR_EVENTS = {"accept": "text/event-stream"}


async def test_the_waiting_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.scheduler.leases.PROGRESS_SECONDS", 0.001)
    shell = Shell(tmp_path)
    async with served(shell) as client, asyncio.TaskGroup() as tasks:
        first = (await client.post(LEASES, json=GOOD)).json()
        asking = tasks.create_task(client.post(LEASES, json=lease_body(wait_seconds=60), headers=ASKS_FOR_EVENTS))
        while not (waiting := (await client.get(LEASES)).json()["waiting"]):
            await asyncio.sleep(0)  # a round trip in memory lets nobody else run
        (place,) = waiting
        assert (place["holder"], place["position"], place["devices"]) == ("painter", 1, {CARD: 20 * GIB})
        await client.request("DELETE", f"{LEASES}/{first['id']}")
        *places, last = events_of(await asking)
    assert [event["waiting"]["position"] for event in places] == [1] * len(places)
    assert places[0]["waiting"]["id"] == place["id"] == last["lease"]["id"]


async def test_a_refusal_is_the_last_event_with_its_status(tmp_path: Path) -> None:
    async with served(Shell(tmp_path)) as client:
        await client.post(LEASES, json=GOOD)
        answer = await client.post(LEASES, json=lease_body(wait_seconds=0.05), headers=ASKS_FOR_EVENTS)
        last = events_of(answer)[-1]
        assert (last["status"], last["error"]["code"], last["error"]["position"]) == (409, "lease_not_granted", 1)
        wrong = await client.post(LEASES, json=lease_body(holder=""), headers=ASKS_FOR_EVENTS)
        assert wrong.status_code == 400, "what is wrong from the start is told as ever"
