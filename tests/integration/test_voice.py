"""Voice over HTTP: it starts while long work and a queue of jobs hold the card, and a flood of it starves nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from support.daemon import RunningDaemon, StartDaemon
from support.scheduling import CARD
from turnout.core.memory import GIB

PATIENCE_SECONDS = 50.0
LOAD_SECONDS = 0.2
MODEL: dict[str, Any] = {
    "engine": "simulated", "device": CARD, "load_seconds": LOAD_SECONDS, "tokens_per_second": 5000,
    "min_residency_seconds": 0,
}  # fmt: skip


def a_card(**models: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration: 28 GiB that models of these footprints and speeds share."""
    return {
        "profile": "none", "profiles": {"none": {}}, "scheduler": {"aging_seconds": 1.0},
        "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32, "headroom_gib": 4}],
        "models": {name: MODEL | facts for name, facts in models.items()},
    }  # fmt: skip


async def leases_of(daemon: RunningDaemon) -> tuple[int, int]:
    """Return how many leases hold and how many wait."""
    told = (await daemon.client.get("/turnout/v1/leases")).json()
    return len(told["leases"]), len(told["waiting"])


async def until_waiting(daemon: RunningDaemon, count: int) -> None:
    """Return once so many leases wait."""
    while (await leases_of(daemon))[1] != count:
        await asyncio.sleep(0)


async def paint(daemon: RunningDaemon, number: int) -> int:
    """Wait for the memory of an image job, and give it back at once."""
    wish = {
        "devices": {CARD: 20 * GIB},
        "class": "job",
        "holder": f"painter {number}",
        "ttl_seconds": PATIENCE_SECONDS,
        "wait_seconds": PATIENCE_SECONDS,
    }
    answer = await daemon.client.post("/turnout/v1/leases", json=wish, timeout=PATIENCE_SECONDS)
    if answer.status_code == 201:
        url = f"/turnout/v1/leases/{answer.json()['id']}"
        await daemon.client.request("DELETE", url, headers={"content-type": "application/json"})
    return answer.status_code


async def test_a_transcription_starts_beside_long_thinking_and_a_queue_of_image_jobs(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(
        a_card(
            thinker={"vram_gib": 20, "roles": ["reasoning"], "tokens_per_second": 40, "reply_tokens": 160},
            ears={"vram_gib": 4, "roles": ["transcription"], "reply_tokens": 5},
        )
    )
    body = {"model": "local/thinker", "messages": [{"role": "user", "content": "Think"}], "stream": True}
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        async with daemon.client.stream(
            "POST", "/v1/chat/completions", json=body, timeout=PATIENCE_SECONDS
        ) as thinking:
            lines = thinking.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            painters = [tasks.create_task(paint(daemon, number)) for number in range(3)]
            await until_waiting(daemon, 3)
            heard = await daemon.chat("local/ears")
            assert heard.status_code == 200
            assert await leases_of(daemon) == (0, 3), "the jobs still wait for the thinking"
            rest = [line async for line in lines if line]
        assert len(rest) > 100, "it was still thinking, and nobody cut it off"
        assert rest[-1] == "data: [DONE]"
    assert [painter.result() for painter in painters] == [201] * 3
    trace = await daemon.why(heard.headers["x-turnout-request-id"])
    (attempt,) = trace["attempts"]
    waited_ms = sum(step["milliseconds"] for step in attempt["steps"] if step["name"] in ("queue", "load"))
    assert waited_ms / 1000 <= 2 * LOAD_SECONDS + 5.0, "two starts, and what a busy machine adds"


async def test_a_flood_of_voice_does_not_starve_the_orchestrator(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(
        a_card(
            chief={"vram_gib": 22, "roles": ["orchestrator"], "reply_tokens": 5},
            ears={"vram_gib": 4, "roles": ["transcription"], "slots": 2, "reply_tokens": 50},
            mouth={"vram_gib": 6, "roles": ["speech"], "slots": 2, "reply_tokens": 50},
        )
    )
    is_over = asyncio.Event()
    told: list[httpx2.Response] = []

    async def flood(model: str) -> None:
        while not is_over.is_set():
            told.append(await daemon.chat(model))

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        for number in range(16):
            tasks.create_task(flood(("local/ears", "local/mouth")[number % 2]))
        answers = [await daemon.chat("local/chief") for _ in range(5)]
        is_over.set()
    assert [answer.status_code for answer in answers] == [200] * 5
    assert {answer.status_code for answer in told} == {200}
    served = {answer.headers["x-turnout-served-model"] for answer in told}
    assert served == {"local/ears", "local/mouth"}, (
        "beside the orchestrator there is room for one of them: they took turns"
    )
