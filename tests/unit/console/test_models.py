"""Models over HTTP: load, unload, pin and let go; what is told meanwhile, and what is said to nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from support.samples import a_target
from support.scheduling import CARD, HandEngine, Shell, a_model, running
from turnout.console.api import Console
from turnout.console.models import Models, all_target_facts, told_loads
from turnout.core.memory import GIB
from turnout.core.words import Target
from turnout.scheduler.messages import UnloadAsked
from turnout.tiers.base import Capabilities, EngineLoad

BASE = "/turnout/v1/models"
ASKS_FOR_EVENTS = {"accept": "text/event-stream"}


@asynccontextmanager
async def served(shell: Shell) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a shell and speak to its console."""
    nobody = cast("Any", None)
    routes = Models(shell.fleet, shell.loop).routes()
    console = Console(status=dict, traces=nobody, default_model=nobody, shut_down=lambda: None, routes=routes)
    transport = httpx2.ASGITransport(app=console.app())
    async with running(shell), httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


class ForeignEngine(HandEngine):
    """Somebody else's process."""

    capabilities = Capabilities(owns_process=False, loads_on_demand=True)

    def targets(self) -> tuple[Target, ...]:
        return (a_target("local/ollama/x", engine="ollama"),)


def events_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    return [json.loads(piece.removeprefix("data: ")) for piece in answer.text.split("\n\n")[:-1]]


async def test_a_model_is_loaded_kept_and_unloaded(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    async with served(shell) as client:
        loaded = (await client.post(f"{BASE}/local/a/load", json={"keep_alive": "5m"})).json()
        assert (loaded["name"], loaded["state"]) == ("local/a", "ready")
        worker = loaded["worker"]
        assert (worker["phase"], worker["reserved"], worker["running"]) == ("ready", {CARD: 16 * GIB}, 0)
        assert worker["idle_seconds"] == 300
        assert 290 < worker["put_away_in_seconds"] <= 300

        again = (await client.post(f"{BASE}/a/load", json={})).json()
        assert again["worker"]["idle_seconds"] == 300, "who says nothing leaves it as it is"
        assert len(shell.engine.orders) == 1

        gone = (await client.post(f"{BASE}/a/unload", json={})).json()
        assert (gone["was_loaded"], gone["worker"]["phase"]) == (True, "cold")
        assert not (await client.post(f"{BASE}/a/unload")).json()["was_loaded"]
        assert shell.free_gib() == 28


async def test_unloading_waits_for_the_answers_that_run(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    async with served(shell) as client, asyncio.TaskGroup() as tasks:
        await shell.loop.requests.admit("one", "local/a")
        asked = tasks.create_task(client.post(f"{BASE}/a/unload", json={}, headers=ASKS_FOR_EVENTS))
        while not shell.loop.view().workers[0].is_unloading:
            await asyncio.sleep(0)
        assert ("stop", "local/a") not in shell.engine.orders
        assert not shell.loop.requests.try_admit("two", "local/a"), "nobody is admitted any more"
        shell.loop.requests.finished("one")
        *steps, last = events_of(await asked)
        assert steps[0] == {"step": "waiting for 1 running answer"}
        assert last["was_loaded"]
        await shell.loop.requests.wait("two")  # by the next worker
        shell.loop.requests.finished("two")


async def test_who_stops_waiting_does_not_take_the_wish_back(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    async with served(shell):
        await shell.loop.requests.admit("one", "local/a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shell.loop.unloads.unload("local/a"), 0.01)
        shell.loop.requests.finished("one")
        assert shell.engine.orders[-1] == ("stop", "local/a")


async def test_loading_is_told_step_by_step(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with served(shell) as client, asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(client.post(f"{BASE}/a/load", json={}, headers=ASKS_FOR_EVENTS))
        while not shell.engine.orders:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        shell.engine.became("local/a", "ready")
        *steps, last = events_of(await asked)
        assert [step["step"].partition(",")[0] for step in steps] == ["loading"]
        assert last["worker"]["phase"] == "ready"


async def test_a_load_that_fails_is_the_last_event(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.engine.is_eager = False
    async with served(shell) as client, asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(client.post(f"{BASE}/a/load", json={}, headers=ASKS_FOR_EVENTS))
        while not shell.engine.orders:
            await asyncio.sleep(0)
        shell.engine.became("local/a", "failed", "no such weights", None)
        last = events_of(await asked)[-1]
        assert last["status"] == 502
        assert last["error"]["message"] == "local/a: local/a cannot be started: no such weights"


async def test_pins_hold_and_are_there_again_after_a_restart(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(), a_model("local/b"))
    async with served(shell) as client:
        pinned = (await client.post(f"{BASE}/a/pin", json={})).json()
        assert pinned["worker"]["is_pinned"]
        await client.post(f"{BASE}/a/load", json={})
        refused = await client.post(f"{BASE}/b/load", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "does_not_fit")
        assert "16.0 GiB are pinned" in refused.json()["error"]["message"]
        assert not (await client.post(f"{BASE}/a/unpin", json={})).json()["worker"]["is_pinned"]
        assert (await client.post(f"{BASE}/b/load", json={})).status_code == 200
        await client.post(f"{BASE}/b/pin", json={})
    async with served(Shell(tmp_path, a_model("local/b"))) as client:
        assert (await client.post(f"{BASE}/b/load", json={})).json()["worker"]["is_pinned"]


async def test_what_the_configuration_pins_stays_pinned(tmp_path: Path) -> None:
    async with served(Shell(tmp_path, a_model(lease_class="pinned"))) as client:
        answer = await client.post(f"{BASE}/a/unpin", json={})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "pinned_by_configuration")
        assert "models.a" in error["hint"]


@pytest.mark.parametrize("act", ["load", "unload", "pin", "unpin"])
async def test_what_is_not_ours_and_what_is_not_there(tmp_path: Path, act: str) -> None:
    shell = Shell(tmp_path, a_model())
    shell.fleet.add(ForeignEngine("ollama", [], shell.bus.emit))
    async with served(shell) as client:
        foreign = await client.post(f"{BASE}/local/ollama/x/{act}", json={})
        error = foreign.json()["error"]
        assert (foreign.status_code, error["code"]) == (409, "not_managed")
        assert "somebody else's process, which turnout never unloads" in error["message"]
        unknown = await client.post(f"{BASE}/local/aa/{act}", json={})
        error = unknown.json()["error"]
        assert (unknown.status_code, error["code"]) == (404, "model_not_found")
        assert "local/a" in error["hint"]
        assert (await client.get(f"{BASE}/local/a/{act}")).status_code == 405


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"keep": 3}', b'{"keep_alive": true}', b'{"keep_alive": "soon"}'])
async def test_a_body_that_makes_no_sense_loads_nothing(tmp_path: Path, body: bytes) -> None:
    shell = Shell(tmp_path, a_model())
    async with served(shell) as client:
        answer = await client.post(f"{BASE}/a/load", content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert shell.engine.orders == []


async def test_the_facts_of_every_target(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    shell.fleet.add(ForeignEngine("ollama", [], shell.bus.emit))
    async with running(shell):
        ours, foreign = all_target_facts(shell.fleet, shell.loop)
        assert (ours["name"], ours["worker"]["phase"], ours["tier"]) == ("local/a", "cold", "local")
        assert (foreign["name"], foreign["worker"]) == ("local/ollama/x", None)


class TellingHand(HandEngine):
    """One that says how busy it is."""

    capabilities = Capabilities(owns_process=True, loads_on_demand=True, takes_orders=True, tells_load=True)
    told: EngineLoad | None = EngineLoad(running=2, waiting=5, cache_use=0.5)

    async def load(self) -> EngineLoad | None:
        return self.told


async def test_the_status_says_how_busy_engines_are_that_tell(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model(), engine=TellingHand)
    shell.fleet.add(ForeignEngine("ollama", [], shell.bus.emit))
    nobody = cast("Any", None)
    console = Console(
        status=lambda: {"targets": all_target_facts(shell.fleet, shell.loop)},
        traces=nobody,
        default_model=nobody,
        shut_down=lambda: None,
        loads=lambda: told_loads(shell.fleet),
    )
    transport = httpx2.ASGITransport(app=console.app())
    async with running(shell), httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        targets = (await client.get("/turnout/v1/status")).json()["targets"]
        assert [target["load"] for target in targets] == [{"running": 2, "waiting": 5, "cache_use": 0.5}, None]
        cast("TellingHand", shell.engine).told = None
        targets = (await client.get("/turnout/v1/status")).json()["targets"]
        assert [target["load"] for target in targets] == [None, None]


async def test_an_unload_of_what_is_not_there_is_over_at_once(tmp_path: Path) -> None:
    shell = Shell(tmp_path, a_model())
    async with running(shell):
        assert not await shell.loop.unloads.unload("local/nobody")
        shell.loop.tell(UnloadAsked(model="local/nobody"))
